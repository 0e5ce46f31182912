"""The demo's sentence and page."""

from __future__ import annotations

import pytest

from mkd_det.experiments.demo.report import ModelResult, summary
from mkd_det.experiments.runs import TrainingResult


@pytest.mark.parametrize(
    ('mkd', 'words'), [(0.45, '5.0 points more'), (0.38, '2.0 points less')]
)
def test_the_summary_compares_with_the_student_alone(mkd: float, words: str) -> None:
    maps = dict(teacher=0.5, student=0.4, mkd=mkd)
    results = [
        ModelResult(name, 10, TrainingResult(name, dict(box_map=value), 1.0, ''))
        for name, value in maps.items()
    ]
    text = summary(results)
    assert f'reaches {mkd:.3f} box mAP: {words} than alone' in text
    assert 'The teacher is 10.0 points above' in text
