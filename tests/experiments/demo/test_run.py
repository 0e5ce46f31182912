"""The demo's quick form, from nothing to its page."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiment_runs import ForkedTraining
from mkd_det.experiments.demo.run import run_demo
from mkd_det.experiments.demo.trainings import QUICK
from mkd_det.experiments.runs import execution, read_history
from mkd_det.experiments.runs.history import BOX_MAP


def test_the_demo_makes_its_page_and_is_not_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for extra in ('sklearn', 'skimage', 'matplotlib'):
        pytest.importorskip(extra, reason='needs the demo extra')
    monkeypatch.setattr(execution, '_start_process', ForkedTraining)
    monkeypatch.setenv('DIGITS_ROOT', 'elsewhere')
    results = run_demo(tmp_path, QUICK)
    assert [result.title for result in results] == [
        'teacher',
        'student alone',
        'student with M-KD',
    ]
    check_results(tmp_path)
    check_page(tmp_path)

    written = (tmp_path / 'mkd' / 'epoch_2.pth').stat().st_mtime_ns
    assert run_demo(tmp_path, QUICK) == results
    assert (tmp_path / 'mkd' / 'epoch_2.pth').stat().st_mtime_ns == written
    assert capsys.readouterr().out.count('already finished') == 3


def check_results(folder: Path) -> None:
    runs = json.loads((folder / 'results.json').read_text())['runs']
    assert [run['name'] for run in runs] == ['teacher', 'student', 'mkd']
    for run in runs:
        assert 0 <= run['box_map'] <= run['box_map_50'] <= 1
        assert math.isfinite(run['seconds']) and run['seed'] == 0
        assert 'python -m mkd_det train mkd_det::demo/' in run['command']
        history = read_history(folder / run['name'])
        assert sorted(history.losses) == [1, 2, 3, 4, 5, 6]
        assert all(math.isfinite(loss) for loss in history.losses.values())
        assert history.metrics[2].get(BOX_MAP, 0.0) == run['box_map']
        assert history.losses[6] < history.losses[1]  # it learns something
    teacher, student, mkd = runs
    assert teacher['params'] > 5 * student['params']
    assert student['params'] == mkd['params']
    losses = [tuple(read_history(folder / r['name']).losses.values()) for r in runs]
    assert len(set(losses)) == 3


def check_page(folder: Path) -> None:
    page = (folder / 'index.html').read_text()
    links = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    assert links == {'detections.png', 'curves.png', 'results.json'}
    for name in links:
        assert (folder / name).stat().st_size > 0
    for name in ('detections.png', 'curves.png'):
        pixels = np.asarray(Image.open(folder / name).convert('L'))
        assert min(pixels.shape) > 400
        assert pixels.std() > 10
    for title in ('teacher', 'student alone', '<strong>student with M-KD</strong>'):
        assert f'>{title}</td>' in page
