"""`mkd-det test`: evaluates the student of a distill run, or any plain model."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny
from tooling import distiller_cfg, fails, run_command, student_cfg, write_config


def test_the_student_is_evaluated_without_the_teacher_file(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / 'predictions.pkl'
    argv = [trained / 'config.py', trained / 'run/epoch_1.pth']
    argv += ['--work-dir', tmp_path / 'test', '--out', out]
    argv += [
        '--cfg-options',
        'log_level=INFO',
        'experiment_name=shown',
    ]  # a logger of its own
    assert run_command('test', argv) == 0
    assert len(pickle.loads(out.read_bytes())) == 8
    metrics = next((tmp_path / 'test').glob('*/*.json'))
    assert 'coco/bbox_mAP' in json.loads(metrics.read_text())
    shown = capsys.readouterr().out
    assert 'coco/bbox_mAP: ' in shown, 'the terminal has what a person needs'
    log = next((tmp_path / 'test').glob('*/*.log')).read_text()
    for dump in ('System environment', 'Average Precision'):
        assert dump in log and dump not in shown


def test_flips_and_plain_configs_are_taken(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    plain = write_config(
        tmp_path / 'plain.py', student_cfg(), trained / 'coco', tmp_path / 'test'
    )
    argv = [plain, trained / 'run/epoch_1.pth', '--tta', '--verbose']
    argv += ['--cfg-options', 'log_level=INFO', 'experiment_name=verbose']
    assert run_command('test', argv) == 0
    assert 'System environment' in capsys.readouterr().out
    assert list((tmp_path / 'test').glob('*/*.json'))


def test_a_checkpoint_of_another_model_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = tiny.write_checkpoint(tiny.gfl(base_channels=16), tmp_path / 'other.pth')
    argv = [trained / 'config.py', other]
    fails(capsys, 'test', argv, 'CheckpointKeysError', 'backbone.conv1')


def test_windows_need_a_screen(
    write: Callable[..., str],
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, 'platform', 'linux')
    argv = [write(distiller_cfg(None)), 'x.pth', '--show']
    fails(capsys, 'test', argv, 'ConfigError', '--show-dir')


def test_predictions_go_into_a_pickle_file(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_command('test', ['config.py', 'x.pth', '--out', 'predictions.json'])
    assert stopped.value.code == 2
    assert '.pkl' in capsys.readouterr().err


def test_what_the_runner_cannot_use_is_refused_before_anything_is_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = [trained / 'config.py', trained / 'run/epoch_1.pth']
    argv += ['--work-dir', tmp_path / 'test', '--cfg-options']
    for option in ('log_level=LOUD', 'default_hooks.logger.type=LogHook'):
        fails(capsys, 'test', [*argv, option], 'ConfigError', option.split('=')[1])
    assert not (tmp_path / 'test').exists()
