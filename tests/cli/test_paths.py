"""A path that cannot be used ends a command with one error, whatever names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import faults
from tooling import distiller_cfg, run_command

Write = Callable[..., str]
LONG = 'a' * 300
OPTION = '--cfg-options'

# Arguments of `mkd-det train CONFIG`.
TRAIN: dict[str, list[str]] = {
    'work dir': ['--work-dir', LONG],
    'resume': ['--resume', LONG],
    'load_from': [OPTION, f'load_from={LONG}'],
    'teacher': [OPTION, f'model.teachers.t.checkpoint={LONG}'],
    'teacher config': [OPTION, f'model.teachers.t.cfg={LONG}'],
    'cache': [OPTION, f'model.teachers.t.cache={LONG}'],
    'annotations': [OPTION, f'train_dataloader.dataset.ann_file={LONG}'],
    'data root': [OPTION, f'train_dataloader.dataset.data_root={LONG}'],
    'images': [OPTION, f'train_dataloader.dataset.data_prefix.img={LONG}'],
    'metric': [OPTION, f'val_evaluator.ann_file={LONG}'],
    'out_dir': [OPTION, f'default_hooks.checkpoint.out_dir={LONG}'],
    'pretrained': [
        OPTION,
        'model.student.backbone.init_cfg.type=Pretrained',
        f'model.student.backbone.init_cfg.checkpoint={LONG}',
    ],
}


def is_told(capsys: pytest.CaptureFixture, name: str, *argv: Any) -> str:
    assert run_command(name, argv) == 2
    message = capsys.readouterr().err
    assert 'Error: ' in message.splitlines()[0] and 'Traceback' not in message
    return message


@pytest.mark.parametrize('case', TRAIN)
def test_a_name_that_is_too_long_stops_a_training(
    case: str, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = write(distiller_cfg(None))
    is_told(capsys, 'train', config, *TRAIN[case])
    assert not list(tmp_path.glob('run/*')), 'nothing is written'


def test_a_name_that_is_too_long_stops_other_commands(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = write(distiller_cfg(None))
    for command in ('train', 'plan', 'inspect', 'chain', 'benchmark'):
        is_told(capsys, command, LONG)
    base = tmp_path / 'based.py'
    base.write_text(f"_base_ = '{LONG}.py'\n")
    is_told(capsys, 'plan', base)
    is_told(capsys, 'test', config, LONG)
    is_told(capsys, 'test', config, 'x.pth', '--work-dir', LONG)
    is_told(capsys, 'export', config, LONG, tmp_path)
    is_told(capsys, 'export', config, 'x.pth', LONG)
    is_told(capsys, 'compare', config, LONG)
    is_told(capsys, 'compare', config, '--work-dir', LONG)
    is_told(capsys, 'chain', config, '--work-dir', LONG)


@pytest.mark.parametrize(
    'name', ['config.py', 'coco/annotations.json', 'coco/images/003.png', 'coco/images']
)
def test_a_file_without_permission_stops_a_training(
    name: str, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = write(distiller_cfg(None))
    with faults.unreadable(tmp_path / name):
        message = is_told(capsys, 'train', config)
    assert name.rpartition('/')[2] in message
    assert 'chmod' in message or 'permission' in message.lower()
    if name == 'config.py':
        assert f'chmod u+r {config}' in message
    assert not (tmp_path / 'run').exists()
