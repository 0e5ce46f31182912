"""A teacher's figure is that of its own test, and is measured once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tiny
from mkd_det.class_maps.class_map import Classes
from mkd_det.class_maps.resolving import resolve_class_map
from mkd_det.config import TeacherConfig
from mkd_det.config_files.reading import load_config
from mkd_det.experiments.comparison.measuring import teachers as module
from mkd_det.experiments.comparison.measuring.teachers import (
    TeacherResult,
    TeacherSource,
    best_teacher,
    measure_teachers,
)
from mkd_det.run import evaluate


def sources(files: Path, **config: Any) -> dict[str, TeacherSource]:
    given = dict(cfg=str(files / 'big.py'), checkpoint=str(files / 'big.pth'))
    big = TeacherSource('t', TeacherConfig(**{**given, **config}), 'big', ['soft'])
    return {'big': big}


def test_the_figure_is_that_of_the_teachers_own_test(
    detectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = load_config(str(detectors / 'big.py'))
    cfg.work_dir, cfg.launcher = str(tmp_path / 'test'), 'none'
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.test_cfg = dict(type='TestLoop')
    del cfg.default_hooks.teacher_check
    expected = evaluate(cfg, str(detectors / 'big.pth'))
    base = load_config(str(detectors / 'alone.py'))
    (found,) = measure_teachers(sources(detectors), base, tmp_path)
    known = {k: v for k, v in found.metrics.items() if v == v}
    assert known == {k: v for k, v in expected.items() if v != -1}
    assert found.reason == '' and found.params > 0

    def again(*_: Any) -> None:
        raise AssertionError('it was measured before')

    monkeypatch.setattr(module, 'evaluate', again)
    (second,) = measure_teachers(sources(detectors), base, tmp_path)
    assert {k: v for k, v in second.metrics.items() if v == v} == known


def test_a_teacher_of_other_classes_is_not_measured(
    detectors: Path, tmp_path: Path
) -> None:
    base = load_config(str(detectors / 'alone.py'))
    other = sources(detectors, cfg=tiny.gfl(num_classes=5), checkpoint=None)
    (found,) = measure_teachers(other, base, tmp_path)
    assert found.metrics == {}
    assert found.reason == 'it has 5 classes, the data 3'


def test_a_teacher_with_a_class_map_is_measured_on_what_both_know(
    detectors: Path, tmp_path: Path
) -> None:
    base = load_config(str(detectors / 'alone.py'))
    five = tiny.gfl(num_classes=5)
    five['test_cfg']['score_thr'] = 0.0
    other = sources(detectors, cfg=five, checkpoint=None)
    other['big'].classes = resolve_class_map(
        't', [4, None, 0], Classes(3, tiny.CLASSES), Classes(5)
    )
    (found,) = measure_teachers(other, base, tmp_path)
    assert found.reason == '' and 'coco/bbox_mAP' in found.metrics


def test_the_best_teacher_of_a_row_counts() -> None:
    known = [
        TeacherResult('a', 1, ['x', 'y'], {'mAP': 0.4}),
        TeacherResult('b', 1, ['x'], {'mAP': 0.5}),
        TeacherResult('c', 1, ['x'], {'mAP': float('nan')}),
        TeacherResult('d', 1, ['z'], {}, 'other classes'),
    ]
    found = [best_teacher(known, row, 'mAP') for row in ('x', 'y', 'z', 'base')]
    assert found == [0.5, 0.4, None, None]
