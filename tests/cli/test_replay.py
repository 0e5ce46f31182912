"""A diverged training ends with exit code 2; `mkd-det replay` runs its last step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tooling import distiller_cfg, fails, run_command


def test_a_diverged_step_is_run_again(
    write: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = distiller_cfg(None)
    name = next(iter(model['terms']))
    model['terms'][name]['weight'] = 1e39
    config = write(model)
    fails(capsys, 'train', [config], 'DivergenceError', f'{name}')
    (step,) = (tmp_path / 'run').glob('diverged_iter_1.pth')
    assert not list((tmp_path / 'run').glob('student_last.pth'))
    assert run_command('replay', [config, str(step)]) == 0
    shown = capsys.readouterr().out
    assert f'{name}: inf' in shown or f'{name}_' in shown
    assert 'is inf' in shown


def test_a_file_that_is_no_step_is_refused(
    write: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = write(distiller_cfg(None))
    gone = str(tmp_path / 'gone.pth')
    fails(capsys, 'replay', [config, gone], 'CheckpointFileError', 'does not exist')
