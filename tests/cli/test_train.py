"""`mkd-det train`: trains, resumes, and refuses what would fail later."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

import tiny
from mkd_det.cli import train
from mkd_det.data.datasets import dataset_classes
from mkd_det.io.lock import locked_folder
from mkd_det.preflight.checks import check_start
from tooling import distiller_cfg, fails, run_command, student_cfg

Write = Callable[..., str]


def test_a_checkpoint_fits_the_plain_student(trained: Path) -> None:
    content = torch.load(trained / 'run/epoch_1.pth', weights_only=False)
    student = tiny.build(tiny.gfl())
    student.load_state_dict(content['state_dict'], strict=True)


def test_resume_continues_where_the_run_ended(trained: Path, tmp_path: Path) -> None:
    teacher = f'model.teachers.t.checkpoint={trained / "teacher_elsewhere.pth"}'
    options = ['--cfg-options', 'train_cfg.max_epochs=2', teacher]
    argv = [trained / 'config.py', '--work-dir', tmp_path / 'run', '--resume']
    assert run_command('train', [*argv, trained / 'run/epoch_1.pth', *options]) == 0
    last = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=False)
    assert (last['meta']['epoch'], last['meta']['iter']) == (2, 8)
    # `--resume` alone finds the checkpoint in the work dir: nothing is left to do.
    assert run_command('train', [*argv, *options]) == 0


def test_two_trainings_do_not_share_a_work_dir(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    teacher = f'model.teachers.t.checkpoint={trained / "teacher_elsewhere.pth"}'
    folder = tmp_path / 'run'
    argv = [trained / 'config.py', '--work-dir', folder, '--cfg-options', teacher]
    with locked_folder(folder, 'training'):
        fails(
            capsys, 'train', argv, 'ExperimentError', 'another training', '--work-dir'
        )
    assert [path.name for path in folder.iterdir()] == ['.lock']


# -- teachers and data ---------------------------------------------------------


def truncated(path: Path) -> None:
    tiny.write_checkpoint(tiny.gfl(16, 24), path)
    path.write_bytes(path.read_bytes()[:20000])


def prefixed(path: Path) -> None:
    tiny.write_checkpoint(tiny.gfl(16, 24), path)
    content = torch.load(path)
    weights = content['state_dict']
    content['state_dict'] = {f'student.{k}': v for k, v in weights.items()}
    torch.save(content, path)


class Hostile:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.marker),))


def hostile(path: Path) -> None:
    torch.save(dict(state_dict=Hostile(path.with_suffix('.marker'))), path)


# Teacher file: how it is made, the error, and what the message must say.
BAD_TEACHERS: dict[str, tuple[Callable[[Path], Any], str, tuple[str, ...]]] = {
    'missing': (lambda path: None, 'CheckpointFileError', ('teachers.t: ',)),
    'folder': (lambda path: path.mkdir(), 'CheckpointFileError', ()),
    'text': (lambda path: path.write_text('no weights'), 'CheckpointFileError', ()),
    'truncated': (truncated, 'CheckpointFileError', ('truncated',)),
    'another model': (
        lambda path: tiny.write_checkpoint(tiny.fcos(16, 24), path),
        'TeacherKeysError',
        ('fix:',),
    ),
    'another class count': (
        lambda path: tiny.write_checkpoint(tiny.gfl(16, 24, num_classes=5), path),
        'TeacherClassesError',
        (),
    ),
    'a prefix': (prefixed, 'TeacherKeysError', ("prefix='student.'",)),
    'hostile': (hostile, 'UntrustedCheckpointError', ('trust_checkpoint=True',)),
}


@pytest.mark.parametrize('case', BAD_TEACHERS)
def test_a_teacher_file_that_does_not_fit_stops_before_anything_is_written(
    case: str, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make, error, words = BAD_TEACHERS[case]
    path = tmp_path / 'bad.pth'
    make(path)
    fails(capsys, 'train', [write(distiller_cfg(path))], error, str(path), *words)
    assert not (tmp_path / 'run').exists()
    assert not path.with_suffix('.marker').exists()


def flatten_a_box(path: Path) -> None:
    content = json.loads(path.read_text())
    content['annotations'][0]['bbox'][2] = 0
    path.write_text(json.dumps(content))


BAD_DATA: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    'missing': (
        lambda root: (root / 'annotations.json').unlink(),
        'AnnotationError',
        'annotations.json',
    ),
    'empty': (
        lambda root: (root / 'annotations.json').write_text(''),
        'AnnotationError',
        'empty',
    ),
    'image': (
        lambda root: (root / 'images/003.png').write_bytes(b'no picture'),
        'ImageError',
        '003.png',
    ),
    'flat box': (
        lambda root: flatten_a_box(root / 'annotations.json'),
        'AnnotationError',
        'bbox_min_size',
    ),
}


@pytest.mark.parametrize('case', BAD_DATA)
def test_bad_data_stops_before_anything_is_written(
    case: str,
    write: Write,
    coco_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    spoil, error, words = BAD_DATA[case]
    config = write(distiller_cfg(None))
    spoil(coco_root)
    fails(capsys, 'train', [config], error, words)
    assert not (tmp_path / 'run').exists()


def test_another_class_order_of_the_teacher_stops_before_anything_is_written(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / 'teacher.pth'
    tiny.write_checkpoint(tiny.gfl(16, 24), file)
    content = torch.load(file)
    config = write(distiller_cfg(file))
    classes = dataset_classes(Config.fromfile(config)) or ()
    content['meta'] = dict(dataset_meta=dict(classes=classes[::-1]))
    torch.save(content, file)
    fails(capsys, 'train', [config], 'TeacherClassesError', 'another order')
    assert not (tmp_path / 'run').exists()


# -- where a training starts ---------------------------------------------------


def test_a_checkpoint_that_cannot_be_resumed_is_refused(
    trained: Path, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    teacher = trained / 'teacher_elsewhere.pth'
    config = write(distiller_cfg(teacher))
    epoch = trained / 'run/epoch_1.pth'
    argv = [config, '--resume', epoch.with_name('epoch_2.pth')]
    fails(capsys, 'train', argv, 'ResumeError', str(epoch))

    argv = [config, '--resume', trained / 'run/student_last.pth']
    fails(capsys, 'train', argv, 'ResumeError', 'load_from')

    terms = {'loss_soft': distiller_cfg(None)['terms']['loss_soft']}
    config = write(distiller_cfg(teacher, terms=terms))
    argv = [config, '--resume', epoch]
    fails(capsys, 'train', argv, 'ResumeError', 'loss_feature')
    assert not (tmp_path / 'run').exists()


def test_load_from_must_be_of_the_student(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    start = tmp_path / 'start.pth'
    config = write(distiller_cfg(None), load_from=str(start))
    argv = [config]
    fails(capsys, 'train', argv, 'CheckpointFileError', 'start.pth')

    student = tiny.build(tiny.gfl())
    weights = {f'teacher.{k}': v for k, v in student.state_dict().items()}
    torch.save(dict(state_dict=weights), start)
    fails(capsys, 'train', argv, 'CheckpointKeysError')

    weights = student.state_dict()
    weights['bbox_head.gfl_cls.weight'] = torch.zeros(1)
    torch.save(dict(state_dict=weights), start)
    check_start(student.state_dict(), str(start))
    shown = capsys.readouterr().out.splitlines()
    (line,) = [line for line in shown if line.startswith('load_from:')]
    assert line.endswith(': bbox_head.gfl_cls.weight')


def test_load_from_must_be_a_path(write: Write, capsys: pytest.CaptureFixture) -> None:
    argv = [write(student_cfg()), '--cfg-options', 'load_from=3']
    fails(capsys, 'train', argv, 'ConfigError', 'load_from')


def test_start_weights_stay_where_there_is_nothing_to_resume(tmp_path: Path) -> None:
    cfg = tiny.runner_cfg(tiny.gfl(), Path('nowhere'), tmp_path / 'run')
    args = train.make_parser().parse_args(
        ['x.py', '--work-dir', str(tmp_path / 'run'), '--resume']
    )

    def applied(**more: Any) -> tuple[Any, Any]:
        fresh = Config({**cfg.to_dict(), **more})
        train.apply_args(fresh, args)
        return fresh.get('resume'), fresh.get('load_from')

    assert applied(load_from='start.pth') == (None, 'start.pth')
    assert applied() == (True, None)
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'epoch_1.pth').touch()
    assert applied(load_from='start.pth') == (True, None)


# -- arguments -----------------------------------------------------------------


def test_arguments_that_machine_or_config_cannot_follow_are_refused(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = write(distiller_cfg(None))
    if not torch.cuda.is_available():
        fails(capsys, 'train', [config, '--amp'], 'ConfigError', 'GPU')
    argv = [config, '--auto-scale-lr']
    fails(capsys, 'train', argv, 'ConfigError', 'base_batch_size=16')
    near = tmp_path / 'confg.py'
    fails(capsys, 'train', [near], 'ConfigError', f'available: {config}')
    assert not (tmp_path / 'run').exists()


# What the runner is told by an option, and a word that the message must hold.
ODD_OPTIONS = {
    'custom_imports=3': 'custom_imports',
    'custom_imports.imports=no.such.module': 'no.such.module',
    'default_hooks=3': 'default_hooks',
    'custom_hooks=3': 'custom_hooks',
    'visualizer.vis_backends=3': 'vis_backends',
    'train_cfg.max_epochs=1e30': 'max_epochs',
    'load_from=foo://x': 'foo://',
    'load_from=': 'load_from',
    'model.type=Distiler': 'available: Distiller',
    'default_scope=nope': 'registry',
}


@pytest.mark.parametrize('option', ODD_OPTIONS)
def test_an_odd_option_stops_before_anything_is_written(
    option: str, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = write(distiller_cfg(None))
    assert run_command('train', [config, '--cfg-options', option]) == 2
    message = capsys.readouterr().err
    assert 'Error: ' in message.splitlines()[0] and 'Traceback' not in message
    assert ODD_OPTIONS[option] in message
    assert not (tmp_path / 'run').exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason='mmengine does it with a GPU')
def test_a_launcher_works_without_a_gpu(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    place = dict(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, MASTER_PORT=port)
    for name, value in {**place, 'MASTER_ADDR': '127.0.0.1'}.items():
        monkeypatch.setenv(name, str(value))
    config = write(distiller_cfg(None))
    try:
        assert run_command('train', [config, '--launcher', 'pytorch']) == 0
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    weights = torch.load(tmp_path / 'run/epoch_1.pth', weights_only=False)['state_dict']
    tiny.build(tiny.gfl()).load_state_dict(weights, strict=True)
