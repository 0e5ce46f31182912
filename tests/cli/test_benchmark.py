"""`mkd-det benchmark`: prints the overhead and writes it as json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny
from tooling import distiller_cfg, fails, run_command


def test_the_three_phases_are_measured_side_by_side(
    write: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / 'new' / 'cost.json'
    config = write(distiller_cfg(tmp_path / 'absent.pth'))
    argv = [config, '--iters', '2', '--warmup', '1', '--batches', '2']
    argv += ['--batch-size', '2', '--json', out]
    assert run_command('benchmark', argv) == 0
    assert 'K / (S + T)' in capsys.readouterr().out

    result = json.loads(out.read_text())
    phases = result['phases']
    assert [len(phases[name]['samples_s']) for name in 'STK'] == [2, 2, 2]
    s, t, k = (phases[name]['median_s'] for name in 'STK')
    assert result['ratios']['K']['of_medians'] == pytest.approx(k / (s + t))
    assert result['image_sizes'] == [[64, 96]] and result['batch_size'] == 2
    assert result['teachers'] == dict(run=['t'], random_weights=['t'])
    assert phases['K']['peak_bytes'] > phases['S']['peak_bytes'] > 0
    # SGD with momentum keeps a number a weight; nobody else's are counted.
    student = sum(p.numel() for p in tiny.build(tiny.gfl()).parameters())
    assert phases['S']['resident_bytes'] == pytest.approx(8 * student, rel=0.05)


def test_wrong_settings_are_refused_before_anything_runs(
    write: Callable[..., str], capsys: pytest.CaptureFixture
) -> None:
    config = write(distiller_cfg(None))
    for argv, words in (
        (['--device', 'foo'], "'foo'"),
        (['--iters', '0'], '--iters'),
        (['--speeds', 'fats'], 'available: fast'),
        (['--sources', '--speeds', 'off', 'fast'], '--sources'),
    ):
        fails(capsys, 'benchmark', [config, *argv], 'ConfigError', words)
    argv = [write(tiny.gfl())]
    fails(capsys, 'benchmark', argv, 'ConfigError', 'no distill config')
