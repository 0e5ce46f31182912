"""`mkd-det inspect`: prints the modules of a model, or of two side by side."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import tiny
from tooling import distiller_cfg, fails, run_command


def test_modules_are_filtered_and_paired(
    write: Callable[..., str], capsys: pytest.CaptureFixture
) -> None:
    config = write(distiller_cfg(None))
    argv = [config, '--input-size', '64', '96', '--filter', 'neck*']
    assert run_command('inspect', argv) == 0
    shown = capsys.readouterr().out
    assert 'neck.fpn_convs.0' in shown and 'backbone' not in shown

    argv = [config, '--input-size', '64', '--depth', '1', '--teacher', 't']
    assert run_command('inspect', argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any('neck' in x and '24/8' in x and 'adapter' in x for x in lines)
    assert any('bbox_head' in x and 'match' in x for x in lines)


def test_a_wrong_filter_or_model_is_refused(
    write: Callable[..., str], capsys: pytest.CaptureFixture
) -> None:
    argv = [write(distiller_cfg(None)), '--input-size', '64', '--filter', 'nekc']
    fails(capsys, 'inspect', argv, 'TapNotFoundError', 'available: neck')
    broken = {**tiny.gfl(), 'neckk': None}
    fails(capsys, 'inspect', [write(broken)], 'ConfigError', "'neckk'")
