"""Rows are pooled over teachers, and ranked over data sets."""

from __future__ import annotations

import json
from pathlib import Path

import pooled
import pytest


def report(folder: Path, goal: float, **rows: list[float | None]) -> Path:
    """Write the json of a comparison: figures of each row, under one teacher."""
    folder.mkdir()
    runs = [
        dict(
            row=name,
            seed=seed,
            metrics=dict(mAP=value),
            validation=dict(mAP=value and value / 2),
        )
        for name, values in rows.items()
        for seed, value in enumerate(values)
    ]
    figures = dict(metrics=dict(mAP=goal), validation=dict(mAP=goal / 2))
    errors = [dict(name=name, image_error=dict(deviation=0.01)) for name in rows]
    content = dict(key='mAP', split='test', runs=runs, teachers=[figures], rows=errors)
    (folder / 'report.json').write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ('row', 'name'),
    [
        ('M-KD, lr 0.01, weight 0.5', 'M-KD'),
        ('M-KD, second teacher', 'M-KD'),
        ('M-KD, lr 0.01, second teacher', 'M-KD'),
        ('M-KD, calibrated', 'M-KD, calibrated'),
        ('M-KD, 3 times as long', 'M-KD, 3 times as long'),
        ('student alone, lr 2e-05, weight 1, ema 0, cosine 1', 'student alone'),
    ],
)
def test_names_of_rows_lose_settings_and_teacher(row: str, name: str) -> None:
    assert pooled.plain_name(row) == name


def test_rows_are_pooled_and_ranked(tmp_path: Path) -> None:
    first = report(
        tmp_path / 'mkd_bccd',
        0.5,
        **{
            'alone, lr 1': [0.29, 0.30, 0.31],
            'a, lr 2': [0.39, 0.41],
            'a, second teacher': [0.40, 0.40],
            'b': [0.35, 0.35],
        },
    )
    second = report(
        tmp_path / 'mkd_cards', 0.6, alone=[0.4, 0.4], a=[0.41, 0.43], c=[0.9, None]
    )
    out = tmp_path / 'v0.2_pooled'
    assert pooled.main([str(first), str(second), '--out', str(out)]) in (None, 0)
    found = json.loads((tmp_path / 'v0.2_pooled.json').read_text())
    a = found['data']['mkd_bccd']['a']
    assert a['image_error'] == 0.01
    assert a['count'] == 4 and a['mean'] == pytest.approx(0.4)
    assert a['share'] == pytest.approx(0.5) and a['p_value'] < 0.01
    # c is on one data set only; a closes a half and a tenth.
    assert found['shares'] == dict(a=pytest.approx(0.3), alone=0.0)
    text = (tmp_path / 'v0.2_pooled.md').read_text()
    assert '| a | 0.400 ± 0.008 (4), p ' in text and '| 30% |' in text
    assert pooled.main([str(tmp_path), '--out', str(out)]) == 2


def test_another_control_and_validation_images(tmp_path: Path) -> None:
    folder = report(
        tmp_path / 'mkd_bccd', 0.6, alone=[0.3, 0.3], a=[0.39, 0.41], b=[0.5, 0.5]
    )
    out = tmp_path / 'pooled'
    argv = [str(folder), '--out', str(out), '--control', 'b', '--split', 'val']
    assert pooled.main(argv) in (None, 0)
    rows = json.loads((tmp_path / 'pooled.json').read_text())['data']['mkd_bccd']
    assert rows['a']['mean'] == pytest.approx(0.2) and rows['a']['image_error'] is None
    assert rows['a']['gain'] == pytest.approx(-0.05) and rows['b']['p_value'] is None
    assert rows['a']['share'] == pytest.approx(1 / 3)
    assert 'against b' in (tmp_path / 'pooled.md').read_text()
    assert pooled.main([*argv[:-3], 'c']) == 2
