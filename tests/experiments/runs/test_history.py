"""Histories of trainings, read from mmengine's logs."""

from __future__ import annotations

import math
from pathlib import Path

from experiment_runs import log_entries, log_metrics
from mkd_det.experiments.runs import read_history
from mkd_det.experiments.runs.history import BOX_MAP


def train(step: int, loss: float) -> dict:
    return {
        'lr': 0.1,
        'loss': 9.0,
        'loss_cls': loss,
        'loss_soft': 9.0 - loss,
        'epoch': (step + 1) // 2,
        'step': step,
        'time': loss / 10,
        'memory': 100 + step,
    }


def test_where_logs_overlap_the_later_start_counts(tmp_path: Path) -> None:
    log_entries(tmp_path, train(1, 4), train(2, 3), start='20250101_000000')
    log_metrics(tmp_path, 1, start='20250101_000000', **{BOX_MAP: 0.1})
    log_entries(tmp_path, train(3, 2.5), start='20250101_000000')
    log_entries(tmp_path, train(3, 2), train(4, 1), start='20250101_000100')
    nothing_found = {'data_time': 0.1, 'time': 0.1, 'step': 2}
    log_entries(tmp_path, nothing_found, start='20250101_000100')
    with open(tmp_path / '20250101_000100/vis_data/scalars.json', 'a') as file:
        file.write('{"loss": 1')  # cut off
    history = read_history(tmp_path)
    assert history.losses == {1: 4, 2: 3, 3: 2, 4: 1}
    found = {epoch: metrics.get(BOX_MAP) for epoch, metrics in history.metrics.items()}
    assert found == {1: 0.1, 2: None}
    assert history.last_iteration == 4
    assert history.iters_per_epoch == 2
    assert history.times[4] == 0.1 and history.memory == 104


def test_a_size_without_objects_is_nan_and_not_zero(tmp_path: Path) -> None:
    log_metrics(tmp_path, 1, **{'coco/bbox_mAP_s': -1.0})
    assert math.isnan(read_history(tmp_path).metrics[1]['coco/bbox_mAP_s'])


def test_lines_that_are_no_entries_are_ignored(tmp_path: Path) -> None:
    log_metrics(tmp_path, 1)
    with open(tmp_path / '20250101/vis_data/scalars.json', 'ab') as file:
        file.write(b'\xff\xfe\n3\n[]\n"\n{"loss": 1, "step": []}\n')
    assert list(read_history(tmp_path).metrics) == [1]
