"""Promises 14 and 19: no way around the reader, no file of another run is touched.

Real hostile files: whoever executes or unpickles one leaves a file behind.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader

import faults
import tiny
from mkd_det.checkpoints import download as downloading
from mkd_det.checkpoints.checkpoint import read_checkpoint, read_class_names
from mkd_det.checkpoints.mmengine_loader import load_from_mkd_det, use_our_reader
from mkd_det.errors import CheckpointFileError, UntrustedCheckpointError
from tooling import (
    distiller_cfg,
    fails,
    plain_dumps,
    run_command,
    student_cfg,
    write_config,
)

ROOT = Path(__file__).resolve().parents[1]
Write = Callable[..., str]
KINDS = ('distilled', 'plain')


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Is there once hostile code has run."""
    return tmp_path / 'ran'


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_coco(tmp_path_factory.mktemp('data') / 'coco')


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, Path]:
    """Work dirs of a finished epoch, by kind, each with `config.py` beside it."""
    root = tmp_path_factory.mktemp('runs')
    teacher = tiny.write_checkpoint(tiny.gfl(16, 24), root / 'teacher.pth')
    models = dict(distilled=distiller_cfg(teacher), plain=student_cfg())
    found = {}
    with plain_dumps():
        for kind, model in models.items():
            folder = root / kind
            folder.mkdir()
            config = write_config(folder / 'config.py', model, data, folder / 'run')
            assert run_command('train', [config]) == 0
            found[kind] = folder
    return found


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(downloading, 'TIMEOUT', 1.0)
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with plain_dumps():
        yield


def changed(path: Path, target: Path, change: Callable[[dict], Any]) -> Path:
    """A copy of a checkpoint with another content."""
    content = torch.load(path, weights_only=False)
    change(content)
    torch.save(content, target)
    return target


# -- code in a checkpoint --------------------------------------------------------------


@pytest.mark.parametrize('key', ['config', 'cfg'])
@pytest.mark.parametrize('kind', KINDS)
def test_the_config_in_a_checkpoint_is_not_executed(
    kind: str, key: str, runs: dict[str, Path], tmp_path: Path, marker: Path
) -> None:
    hostile = changed(
        runs[kind] / 'run' / 'epoch_1.pth',
        tmp_path / 'epoch_1.pth',
        lambda content: content['meta'].update({key: faults.code(marker)}),
    )
    argv = [runs[kind] / 'config.py', '--work-dir', tmp_path / 'run']
    options = ['--cfg-options', 'train_cfg.max_epochs=2']
    assert run_command('train', [*argv, '--resume', hostile, *options]) == 0
    assert (tmp_path / 'run' / 'epoch_2.pth').is_file()
    assert not marker.exists()


def test_what_mmengine_reads_of_that_config_is_left(tmp_path: Path) -> None:
    for text, left in (
        ('a = 1\ngpu_ids = range(0, 2)\n', 'gpu_ids = [0, 1]\n'),
        ('gpu_ids = [0, 3]\nimport os', 'gpu_ids = [0, 1]\n'),
        ('gpu_ids = __import__("os").system("true")', None),
        ('gpu_ids = range(0, 99999999999)', None),
        ('model = 3', None),
        (b'gpu_ids = [0]', None),
    ):
        torch.save(dict(meta=dict(config=text)), tmp_path / 'x.pth')
        meta = load_from_mkd_det(str(tmp_path / 'x.pth'))['meta']
        assert meta.get('config') == left
        if left:
            ids = Config.fromstring(left, '.py').gpu_ids
            assert len(ids) == 2


def ways() -> dict[str, Callable[[str], list[str]]]:
    """Arguments with which a training reads a file or address."""
    pretrained = 'dict(type="Pretrained",checkpoint="{}")'
    return {
        'load_from': lambda path: ['--cfg-options', f'load_from={path}'],
        'resume': lambda path: ['--resume', path],
        'init_cfg': lambda path: ['INIT', pretrained.format(path)],
        'init_cfg of a part': lambda path: ['INIT_PART', pretrained.format(path)],
    }


@pytest.mark.parametrize('place', ['a file', 'an address'])
@pytest.mark.parametrize('way', ways())
@pytest.mark.parametrize('kind', KINDS)
def test_a_hostile_file_does_not_run_whatever_names_it(
    kind: str,
    way: str,
    place: str,
    runs: dict[str, Path],
    tmp_path: Path,
    marker: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    content = torch.load(runs[kind] / 'run' / 'epoch_1.pth', weights_only=False)
    file = faults.hostile(tmp_path / 'evil.pth', marker, **content)
    cfg = Config.fromfile(runs[kind] / 'config.py')
    cfg.work_dir = str(tmp_path / 'run')
    with faults.server(file) as address:
        path = str(file) if place == 'a file' else f'{address}/evil.pth'
        argv = ways()[way](path)
        if argv[0].startswith('INIT'):
            model = cfg.model.student if kind == 'distilled' else cfg.model
            part = model.backbone if argv[0] == 'INIT_PART' else model
            part.init_cfg = dict(type='Pretrained', checkpoint=path)
            argv = []
        cfg.dump(tmp_path / 'config.py')
        error = fails(
            capsys,
            'train',
            [tmp_path / 'config.py', *argv],
            'UntrustedCheckpointError',
            path,
        )
    assert not marker.exists() and not (tmp_path / 'run').exists()
    # There is no such option here: it would do nothing.
    assert 'trust_checkpoint' not in error


@pytest.mark.parametrize('command', ['test', 'export', 'inspect'])
def test_a_hostile_file_does_not_run_in_other_commands(
    command: str,
    runs: dict[str, Path],
    tmp_path: Path,
    marker: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    content = torch.load(runs['plain'] / 'run' / 'epoch_1.pth', weights_only=False)
    file = faults.hostile(tmp_path / 'evil.pth', marker, **content)
    argv: list[Any] = [runs['plain'] / 'config.py', file]
    if command == 'test':
        argv += ['--work-dir', tmp_path / 'run']
    elif command == 'export':
        argv += [tmp_path / 'out.pth']
    else:
        argv = [argv[0], '--checkpoint', file]
    fails(capsys, command, argv, 'UntrustedCheckpointError', str(file))
    assert not marker.exists()


def test_mmengine_and_mmdet_read_through_our_reader(
    runs: dict[str, Path], tmp_path: Path, marker: Path
) -> None:
    from mmdet.apis import init_detector
    from mmengine.runner import load_checkpoint

    use_our_reader()
    loaders = CheckpointLoader._schemes
    assert set(loaders.values()) == {load_from_mkd_det}, 'every kind of address'
    assert {'', 'http://', 'torchvision://', 'open-mmlab://'} < set(loaders)
    config = runs['plain'] / 'run' / 'config.py'
    model = init_detector(
        str(config), str(runs['plain'] / 'run' / 'epoch_1.pth'), device='cpu'
    )
    assert tuple(model.dataset_meta['classes']) == tiny.CLASSES
    file = faults.hostile(tmp_path / 'evil.pth', marker)
    for load in (
        lambda: init_detector(str(config), str(file), device='cpu'),
        lambda: load_checkpoint(model, str(file)),
        lambda: load_checkpoint(model, f'file://{file}'),
    ):
        with pytest.raises((UntrustedCheckpointError, CheckpointFileError)):
            load()
    assert not marker.exists()


# What reads a file in ways of its own; where that may be called.
READERS = {
    'torch.load': {'checkpoints/checkpoint.py'},
    'pickle.load': set(),
    'pickle.loads': set(),
    'pickle.Unpickler': set(),
    'torch.hub.load': set(),
    'torch.hub.load_state_dict_from_url': set(),
    'torch.jit.load': set(),
    'numpy.load': {'experiments/comparison/measuring/students.py'},
    'marshal.loads': set(),
    'eval': set(),
    'exec': set(),
    'Config.fromstring': set(),
}


def test_no_other_place_reads_pickles_or_executes_text() -> None:
    for file in sorted((ROOT / 'mkd_det').rglob('*.py')):
        place = file.relative_to(ROOT / 'mkd_det').as_posix()
        if place.startswith('.mim'):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func).replace('np.', 'numpy.')
                allowed = READERS.get(name)
                assert allowed is None or place in allowed, f'{place} calls {name}'


# -- names of models -------------------------------------------------------------------


def test_a_name_of_a_model_is_read_through_the_same_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marker: Path
) -> None:
    file = tmp_path / 'r18.pth'
    torch.save({'backbone.conv': torch.ones(1), 'head.fc': torch.ones(1)}, file)
    evil = faults.hostile(tmp_path / 'evil.pth', marker)
    with faults.server(file, evil) as address:
        names = dict(r18=f'{address}/r18.pth', evil=f'{address}/evil.pth')
        zoo = 'mmengine.runner.checkpoint.'
        for function in (
            'get_torchvision_models',
            'get_external_models',
            'get_mmcls_models',
        ):
            monkeypatch.setattr(zoo + function, lambda: dict(names))
        for scheme in ('torchvision', 'open-mmlab', 'openmmlab', 'mmcls'):
            content = read_checkpoint(f'{scheme}://r18')
            weights = content.get('state_dict', content)
            assert ('conv' in weights) == (scheme == 'mmcls')
            with pytest.raises(UntrustedCheckpointError):
                read_checkpoint(f'{scheme}://evil')
            with pytest.raises(CheckpointFileError, match='no model') as error:
                read_checkpoint(f'{scheme}://r81')
            assert error.value.available[0] == f'{scheme}://r18'
    for path in ('ftp://a/b.pth', 'pavi://a', 'file:///tmp/x.pth', 'x://'):
        with pytest.raises(CheckpointFileError, match='not known'):
            read_checkpoint(path)
    assert not marker.exists()


# -- damage ----------------------------------------------------------------------------


@pytest.mark.parametrize('way', ['teacher', 'resume', 'load_from', 'test', 'export'])
def test_flipped_signs_are_refused(
    way: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Every number stays finite and every shape right: only the checksum tells."""
    kind = 'distilled' if way == 'teacher' else 'plain'
    config, file = runs[kind] / 'config.py', tmp_path / 'flipped.pth'
    source = runs[kind] / 'run' / 'epoch_1.pth'
    if way == 'teacher':
        source = runs[kind].parent / 'teacher.pth'
    file.write_bytes(source.read_bytes())
    faults.flip_signs(file)
    options = {
        'teacher': ['--cfg-options', f'model.teachers.t.checkpoint={file}'],
        'resume': ['--resume', file],
        'load_from': ['--cfg-options', f'load_from={file}'],
        'test': [file],
        'export': [file, tmp_path / 'out.pth'],
    }[way]
    command = way if way in ('test', 'export') else 'train'
    argv = [config, *options]
    if command != 'export':
        argv += ['--work-dir', tmp_path / 'run']
    name = 'ResumeError' if way == 'resume' else 'CheckpointFileError'
    fails(capsys, command, argv, name, 'is damaged', 'CRC')
    assert not (tmp_path / 'run').exists() and not (tmp_path / 'out.pth').exists()


def test_a_pipe_and_a_file_without_permission_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointFileError, match='no regular file'):
        read_checkpoint(faults.pipe(tmp_path / 'pipe.pth'))
    with pytest.raises(CheckpointFileError, match='no regular file'):
        read_checkpoint(os.devnull)
    with pytest.raises(CheckpointFileError, match='cannot be opened'):
        read_checkpoint('x' * 300 + '.pth')
    with pytest.raises(CheckpointFileError, match='cannot be opened'):
        read_checkpoint('a\0b.pth')
    torch.save(dict(state_dict={}), tmp_path / 'x.pth')

    def refuse(path: Any, *_: Any) -> int:
        raise PermissionError(13, 'Permission denied', path)

    # The tests may run as a user who may read everything.
    monkeypatch.setattr('mkd_det.checkpoints.checkpoint.os.open', refuse)
    with pytest.raises(CheckpointFileError, match='cannot be opened') as error:
        read_checkpoint(tmp_path / 'x.pth')
    assert error.value.actual == 'Permission denied'


ODD: dict[str, Any] = {
    'a list': ['epoch', 'seed'],
    'a number': 3,
    'nothing': None,
    'classes as a number': dict(dataset_meta=dict(classes=3)),
    'data as a list': dict(dataset_meta=[1], epoch='one'),
    'classes of numbers': dict(CLASSES=(1, 2)),
    'a config of bytes': dict(config=b'x', cfg=3),
}


@pytest.mark.parametrize('case', ODD)
def test_a_checkpoint_may_say_odd_things_about_itself(
    case: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    """Its weights count: it starts a training, is exported, and teaches."""
    epoch = runs['plain'] / 'run' / 'epoch_1.pth'
    file = changed(epoch, tmp_path / 'x.pth', lambda c: c.update(meta=ODD[case]))
    config = runs['plain'] / 'config.py'
    assert run_command('export', [config, file, tmp_path / 'out.pth']) == 0
    meta = deepcopy(ODD[case])
    assert read_class_names(meta if isinstance(meta, dict) else {}) is None
    from mkd_det.teachers.loading import Teacher

    cfg = dict(cfg=student_cfg(), checkpoint=str(file))
    teacher = Teacher.build('t', cfg)
    teacher.load()
    assert teacher.classes is None


def test_names_of_classes_are_read_from_all_versions_of_mmdet() -> None:
    for meta in (
        dict(dataset_meta=dict(classes=('a', 'b'))),
        dict(dataset_meta=dict(CLASSES=['a', 'b'])),
        dict(CLASSES=('a', 'b')),
        dict(classes=['a', 'b'], dataset_meta={}),
    ):
        assert read_class_names(meta) == ('a', 'b')
    assert read_class_names(dict(CLASSES='a')) == ('a',)
