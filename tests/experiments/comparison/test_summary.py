"""Results of single trainings, and summaries of rows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiment_runs import log_entries, make_run
from mkd_det.experiments.comparison.judging.statistics import Difference
from mkd_det.experiments.comparison.summary import (
    SeedResult,
    read_seed_result,
    summarize_row,
    with_incomplete_log,
)
from mkd_det.experiments.runs import TrainingResult

KEY = 'coco/bbox_mAP'
ABOUT: dict[str, Any] = dict(source='', config='', caveats=[], params=1)


def result(row: str, seed: int = 0, **metrics: float) -> SeedResult:
    found = {KEY: 0.0, **{f'coco/{k}': v for k, v in metrics.items()}}
    return SeedResult(row, seed, found, {}, {}, None, None, '', 1.0, '')


def test_a_result_is_read_from_the_log(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for step in (1, 2, 3):
        line = dict(loss=4.0 - step, step=step, lr=1, time=0.1 * step)
        log_entries(tmp_path, line)
    for epoch in (1, 2):
        log_entries(tmp_path, {KEY: 0.1 * epoch, 'data_time': 0.1, 'step': epoch})
    trained = TrainingResult('a', {}, 9.0, 'python x', 100.0)
    found = read_seed_result('a', 5, run, trained, KEY)
    assert found.metrics == {KEY: 0.2} and found.curve == {1: 0.1, 2: 0.2}
    assert found.losses == {1: 3.0, 2: 2.0, 3: 1.0} and found.iteration == 0.2
    assert (found.memory, found.memory_of) == (100.0, 'process')


def test_nothing_detected_counts_as_zero(tmp_path: Path) -> None:
    for epoch in (1, 2):
        log_entries(tmp_path, {'data_time': 0.1, 'step': epoch})
    trained = TrainingResult('a', {}, 1.0, '')
    found = read_seed_result('a', 0, make_run(tmp_path), trained, KEY)
    assert found.metrics[KEY] == 0.0 and found.curve == {1: 0.0, 2: 0.0}
    assert (found.iteration, found.memory, found.memory_of) == (None, None, '')


def test_a_row_that_detects_nothing_has_zero_where_the_base_has_objects() -> None:
    sizes = dict(bbox_mAP_s=0.2, bbox_mAP_m=0.4, bbox_mAP_l=math.nan, cat_precision=0.3)
    base = [result('alone', **sizes)]
    parts = summarize_row([result('odd')], base, KEY, 0.005, **ABOUT).parts
    assert parts['size']['small'].mean == parts['size']['medium'].mean == 0.0
    assert parts['class']['cat'].mean == 0.0
    assert math.isnan(parts['size']['large'].mean)  # the data has no such objects


def test_costs_are_compared_seed_by_seed() -> None:
    base = [replace(result('alone', s), iteration=0.2 + 0.1 * s) for s in (0, 1)]
    row = [replace(result('x', s), iteration=0.3 + 0.1 * s) for s in (1, 0)]
    difference = Difference(0.0, (-0.1, 0.1), 1.0, 2)
    found = summarize_row(row, base, KEY, 0.005, difference, **ABOUT)
    assert math.isclose(found.extra_iteration.mean, 0.1)
    assert found.extra_iteration.count == 2 and found.memory.count == 0
    assert found.difference is not None and found.verdict is not None
    alone = summarize_row(base, base, KEY, 0.005, **ABOUT)
    assert alone.difference is None and alone.verdict is None


def test_results_with_incomplete_logs() -> None:
    whole = replace(result('a'), curve={1: 0.1}, losses={1: 2.0})
    short = replace(whole, seed=1, curve={})
    assert with_incomplete_log([whole, short], [whole, short]) == [short]
    none = replace(whole, losses={})  # its row has none that is longer
    assert with_incomplete_log([none], [none, whole]) == [none]
    assert with_incomplete_log([none], [none]) == []  # too short to log any
