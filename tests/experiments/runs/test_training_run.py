"""Trainings: what identifies them, their commands, their metrics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiment_runs import SCALARS, finish_run, log_entries, make_run
from mkd_det.errors import ExperimentError
from mkd_det.experiments.runs import TrainingResult
from mkd_det.experiments.runs.history import BOX_MAP


def test_the_fingerprint_changes_with_what_the_training_is_made_from(
    tmp_path: Path,
) -> None:
    same = make_run(tmp_path).fingerprint
    assert make_run(tmp_path / 'elsewhere').fingerprint == same
    others = [
        make_run(tmp_path, options={'randomness.seed': '1'}),
        make_run(tmp_path, budget=3),
        make_run(tmp_path, depends_on={'teacher': 'another'}),
        make_run(tmp_path, settings={'train_dataloader.batch_size': '3'}),
    ]
    assert len({same, *(other.fingerprint for other in others)}) == 5


def test_the_command_needs_no_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / 'run', config=str(tmp_path / 'configs' / 'a.py'))
    start = ['-m', 'mkd_det', 'train']
    assert run.arguments == [*start, 'configs/a.py', '--work-dir', 'run']
    packaged = make_run(Path('run'), config='mkd_det::a.py', options={'x': 1})
    assert packaged.arguments[3] == 'mkd_det::a.py'
    assert packaged.arguments[-2:] == ['--cfg-options', 'x=1']


def test_metrics_of_a_finished_training(tmp_path: Path) -> None:
    run = finish_run(make_run(tmp_path / 'run'))
    assert run.read_metrics() == {'box_map': 0.25, 'box_map_50': 0.5}
    # Another choice of metrics does not change the training.
    other = replace(run, metrics={'ap50': 'coco/bbox_mAP_50'})
    assert other.fingerprint == run.fingerprint
    assert other.read_metrics() == {'ap50': 0.5}
    with pytest.raises(ExperimentError) as caught:
        replace(run, metrics={'map': 'coco/bbox_map'}).read_metrics()
    assert BOX_MAP in caught.value.available


def test_a_training_without_detections_has_zero_of_every_coco_metric(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / 'run', metrics={'bbox_mAP_75': 'coco/bbox_mAP_75'})
    finish_run(run)
    (log,) = run.folder.glob(SCALARS)
    log.write_text('')
    log_entries(run.folder, {'data_time': 0.1, 'step': 2})  # CocoMetric logs nothing
    assert run.read_metrics() == {'bbox_mAP_75': 0.0}


def test_an_unfinished_or_damaged_training_has_no_metrics(tmp_path: Path) -> None:
    run = make_run(tmp_path / 'run')
    assert run.read_metrics() is None
    finish_run(run)
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-9])
    assert run.read_metrics() is None


def test_a_result_stands_flat_in_json() -> None:
    result = TrainingResult('a', {'box_map': 0.5}, 3.0, 'python x', 9.0)
    assert result.entry() == dict(
        name='a', box_map=0.5, seconds=3.0, command='python x'
    )
    assert str(result) == 'box_map 0.500'
