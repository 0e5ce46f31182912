"""A full disk or a kill while saving keeps the previous checkpoint."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import find_latest_checkpoint

import hook_runs
from mkd_det.errors import CheckpointSaveError
from mkd_det.io.atomic import write_atomically


class SmallDisk(Hook):
    """From one moment on, no file of any size is written.

    The kernel enforces it: a limit on the size of files, which every write
    beyond fails with, half-way through.
    """

    priority = 'HIGHEST'

    def __init__(self, moment: str, epoch: int) -> None:
        self.epoch = epoch
        setattr(self, moment, self.fill)

    def fill(self, runner: Any, *_: Any, **__: Any) -> None:
        if runner.epoch == self.epoch:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            size = next(Path(runner.work_dir).glob('epoch_*.pth')).stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))


@pytest.fixture
def _restored_disk() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _cfg(root: Path, epochs: int = 2, val: bool = False) -> Any:
    cfg = hook_runs.distill_cfg(root, epochs=epochs, val=val, images=2)
    cfg.default_hooks.checkpoint = dict(
        type='SafeCheckpointHook',
        interval=1,
        max_keep_ckpts=1,
        **(dict(save_best='toy/mAP') if val else {}),
    )
    if val:
        cfg.val_evaluator = cfg.test_evaluator = dict(type='EpochMetric')
    return cfg


def _files(cfg: Any) -> set[str]:
    return {p.name for p in Path(cfg.work_dir).iterdir() if 'pth' in p.name}


@pytest.mark.usefixtures('_restored_disk')
def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path)
    runner = hook_runs.build(cfg, 'full')
    runner.register_hook(SmallDisk('after_train_epoch', epoch=1))
    with pytest.raises(CheckpointSaveError, match=r'epoch_2.pth could not') as error:
        runner.train()
    assert error.value.expected.endswith('MiB of free space')
    assert error.value.actual.endswith('MiB free')
    assert _files(cfg) == {'epoch_1.pth'}
    assert find_latest_checkpoint(cfg.work_dir) == str(
        Path(cfg.work_dir, 'epoch_1.pth').resolve()
    )
    assert torch.load(Path(cfg.work_dir, 'epoch_1.pth'), weights_only=False)[
        'optimizer'
    ]


@pytest.mark.usefixtures('_restored_disk')
def test_a_full_disk_keeps_the_previous_best(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path, val=True)
    runner = hook_runs.build(cfg, 'best')
    runner.register_hook(SmallDisk('before_val', epoch=2))
    with pytest.raises(CheckpointSaveError, match='best_toy_mAP_epoch_2.pth'):
        runner.train()
    assert _files(cfg) == {'epoch_2.pth', 'best_toy_mAP_epoch_1.pth'}


def test_outdated_checkpoints_are_deleted(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path, epochs=3, val=True)
    runner = hook_runs.build(cfg, 'rotate')
    runner.train()
    assert _files(cfg) == {'epoch_3.pth', 'best_toy_mAP_epoch_3.pth'}
    assert Path(cfg.work_dir, 'last_checkpoint').read_text().endswith('epoch_3.pth')
    assert runner.message_hub.get_info('keep_ckpt_ids') == [3]


def test_a_kill_while_writing_keeps_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / 'weights.pth'
    write_atomically(file, b'before')
    child = os.fork()
    if child == 0:
        # The kernel kills the child when it has written half of the file.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
        write_atomically(file, b'x' * 2**17)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGXFSZ
    assert file.read_bytes() == b'before'
    write_atomically(file, b'after')
    assert file.read_bytes() == b'after'
    assert list(tmp_path.iterdir()) == [file], 'the torn file is gone'


def test_an_unwritable_folder_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(CheckpointSaveError, match='could not be written'):
        write_atomically(tmp_path / 'file' / 'weights.pth', b'')


@pytest.mark.parametrize('place', ['file/weights.pth', 'folder', 'a\0b'])
def test_only_a_full_disk_is_told_to_be_made_room_on(
    place: str, tmp_path: Path
) -> None:
    (tmp_path / 'file').touch()
    (tmp_path / 'folder').mkdir()
    with pytest.raises(CheckpointSaveError) as error:
        write_atomically(tmp_path / place, b'')
    assert 'disk space' not in error.value.fix
    assert not list(tmp_path.glob('.*'))


def test_two_processes_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    file = tmp_path / 'weights.pth'
    alive = tmp_path / f'.weights.pth.{os.getppid()}.partial'
    dead = tmp_path / f'.weights.pth.{2**22 + 1}.partial'
    for partial in (alive, dead):
        partial.write_bytes(b'half')
    write_atomically(file, b'ours')
    assert file.read_bytes() == b'ours'
    assert alive.exists() and not dead.exists()


def test_a_link_stays_a_link_and_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    file, link = tmp_path / 'weights.pth', tmp_path / 'link.pth'
    file.write_bytes(b'before')
    file.chmod(0o600)
    link.symlink_to(file)
    write_atomically(link, b'after')
    assert link.is_symlink() and file.read_bytes() == b'after'
    assert file.stat().st_mode & 0o777 == 0o600
