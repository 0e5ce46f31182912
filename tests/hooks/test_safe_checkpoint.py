"""Checkpoints are complete, and no file of another run is touched for them."""

from __future__ import annotations

import logging
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import find_latest_checkpoint

import faults
import hook_runs
from mkd_det.checkpoints.checkpoint import read_checkpoint
from mkd_det.errors import CheckpointSaveError, ConfigError, ResumeError
from mkd_det.hooks.recovery.safe_checkpoint_hook import (
    SafeCheckpointHook,
    use_safe_checkpoint_hook,
)
from mkd_det.training.resume import settle_resume


class SmallDisk(Hook):
    """From one moment on, no file grows beyond half of a checkpoint."""

    priority = 'HIGHEST'

    def __init__(self, moment: str, epoch: int) -> None:
        self.epoch = epoch
        self.full = ExitStack()
        setattr(self, moment, self.fill)

    def fill(self, runner: Any, *_: Any, **__: Any) -> None:
        if runner.epoch == self.epoch:
            size = next(Path(runner.work_dir).glob('epoch_*.pth')).stat().st_size
            self.full.enter_context(faults.full_disk(size // 2))


def _fails(runner: Any, moment: str, epoch: int, match: str) -> CheckpointSaveError:
    """Train until the disk is full, and return the error."""
    disk = SmallDisk(moment, epoch)
    runner.register_hook(disk)
    with disk.full, pytest.raises(CheckpointSaveError, match=match) as error:
        runner.train()
    return error.value


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


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path)
    runner = hook_runs.build(cfg, 'full')
    error = _fails(runner, 'after_train_epoch', 1, r'epoch_2.pth could not')
    assert error.expected.endswith('MiB of free space')
    assert error.actual.endswith('MiB free')
    assert _files(cfg) == {'epoch_1.pth'}
    assert find_latest_checkpoint(cfg.work_dir) == str(
        Path(cfg.work_dir, 'epoch_1.pth').resolve()
    )
    assert torch.load(Path(cfg.work_dir, 'epoch_1.pth'), weights_only=False)[
        'optimizer'
    ]


def test_a_full_disk_keeps_the_previous_best(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path, val=True)
    runner = hook_runs.build(cfg, 'best')
    _fails(runner, 'before_val', 2, 'best_toy_mAP_epoch_2.pth')
    assert _files(cfg) == {'epoch_2.pth', 'best_toy_mAP_epoch_1.pth'}


def test_outdated_checkpoints_are_deleted(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path, epochs=3, val=True)
    runner = hook_runs.build(cfg, 'rotate')
    runner.train()
    assert _files(cfg) == {'epoch_3.pth', 'best_toy_mAP_epoch_3.pth'}
    assert Path(cfg.work_dir, 'last_checkpoint').read_text().endswith('epoch_3.pth')
    assert runner.message_hub.get_info('keep_ckpt_ids') == [3]


@pytest.mark.parametrize('count', [3, 4, 5])
def test_a_kill_while_saving_leaves_what_can_be_resumed(
    count: int, tmp_path: Path
) -> None:
    """At the second checkpoint, its note, or the first best one."""
    cfg = _cfg(tmp_path, val=True)
    cfg.dump(tmp_path / 'config.py')
    moment = dict(KILL_AT='mkd_det.io.atomic:os.replace', KILL_COUNT=str(count))
    child = hook_runs.start(tmp_path / 'config.py', tmp_path / 'log', **moment)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    last = find_latest_checkpoint(cfg.work_dir)
    assert last and read_checkpoint(last)['optimizer']
    for file in Path(cfg.work_dir).glob('*.pth'):
        read_checkpoint(file)


# -- files of other runs ---------------------------------------------------------------


@HOOKS.register_module(force=True)
class SomebodysHook(CheckpointHook):
    """A checkpoint hook of a user."""


@pytest.fixture(scope='module')
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work dir of a run with one epoch and its best checkpoint."""
    root = tmp_path_factory.mktemp('original')
    hook_runs.build(_cfg(root, epochs=1, val=True), 'original').train()
    return root


def _copy(original: Path, tmp_path: Path, name: str = 'run') -> tuple[Any, Path]:
    """A copy of that run, which continues; and the original, as it is."""
    theirs = tmp_path / 'theirs'
    shutil.copytree(original, theirs, dirs_exist_ok=True)
    cfg = _cfg(theirs, epochs=2, val=True)
    cfg.work_dir = str(tmp_path / name)
    shutil.copytree(original / 'run', cfg.work_dir)
    for file in Path(cfg.work_dir).glob('*.pth'):
        # As if it had been trained in `theirs` and copied from there.
        content = torch.load(file, weights_only=False)
        info = content['message_hub']['runtime_info']
        info['best_ckpt'] = str(theirs / 'run' / 'best_toy_mAP_epoch_1.pth')
        torch.save(content, file)
    (Path(cfg.work_dir) / 'last_checkpoint').write_text(
        str(theirs / 'run' / 'epoch_1.pth')
    )
    cfg.resume = True
    return cfg, theirs / 'run'


def _bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize('kind', ['ours', 'mmengine', 'a user'])
def test_a_copied_work_dir_leaves_the_original_alone(
    kind: str, original: Path, tmp_path: Path
) -> None:
    cfg, theirs = _copy(original, tmp_path)
    if kind != 'ours':
        name = 'CheckpointHook' if kind == 'mmengine' else 'SomebodysHook'
        cfg.default_hooks.checkpoint.type = name
    before = _bytes(theirs)
    assert settle_resume(cfg) == str(Path(cfg.work_dir, 'epoch_1.pth'))
    runner = hook_runs.build(cfg, f'copy {kind}')
    use_safe_checkpoint_hook(runner)
    with faults.deletions() as touched:
        runner.train()
    assert _bytes(theirs) == before
    assert not [path for path in touched if theirs in path.parents]
    # The copy has its own best checkpoint, and only the new one.
    assert _files(cfg) == {'epoch_2.pth', 'best_toy_mAP_epoch_2.pth'}


def test_a_copy_of_links_leaves_the_original_alone(
    original: Path, tmp_path: Path
) -> None:
    """`cp -rs` makes links: they are replaced, not written through."""
    cfg, theirs = _copy(original, tmp_path)
    for name in ('epoch_2.pth', 'best_toy_mAP_epoch_2.pth', 'student_last.pth'):
        (theirs / name).write_bytes(b'theirs')
        Path(cfg.work_dir, name).symlink_to(theirs / name)
    cfg.default_hooks.export_student = dict(type='ExportStudentHook')
    before = _bytes(theirs)
    settle_resume(cfg)
    runner = hook_runs.build(cfg, 'copy of links')
    use_safe_checkpoint_hook(runner)
    runner.train()
    assert _bytes(theirs) == before
    written = Path(cfg.work_dir, 'epoch_2.pth')
    assert written.stat().st_size > 1000 and not written.is_symlink()


def test_a_best_checkpoint_that_is_elsewhere_stays_there(
    original: Path, tmp_path: Path
) -> None:
    cfg, theirs = _copy(original, tmp_path)
    Path(cfg.work_dir, 'best_toy_mAP_epoch_1.pth').unlink()
    cfg.val_evaluator = dict(type='EpochMetric', sign=-1)
    settle_resume(cfg)
    runner = hook_runs.build(cfg, 'elsewhere')
    runner.train()
    # Nothing was better than it: it is the best one still, and none of this run.
    assert _files(cfg) == {'epoch_2.pth'}
    assert (theirs / 'best_toy_mAP_epoch_1.pth').is_file()
    assert 'best_ckpt' not in runner.message_hub.runtime_info
    assert runner.message_hub.get_info('best_score') == 100


HUBS: dict[str, dict[str, Any]] = {
    'a file of somebody': dict(best_ckpt='FOREIGN'),
    'a file above': dict(best_ckpt='../victim.pth'),
    'no name': dict(best_ckpt='..'),
    'a checkpoint that is not the best': dict(best_ckpt='epoch_1.pth'),
    'a number': dict(best_ckpt=3),
    'a score in words': dict(best_score='much'),
    'kept numbers that are paths': dict(keep_ckpt_ids=['../../victim']),
    'kept numbers that are a word': dict(keep_ckpt_ids='12'),
}


@pytest.mark.parametrize('case', HUBS)
def test_what_a_hostile_checkpoint_names_is_not_deleted(
    case: str, original: Path, tmp_path: Path
) -> None:
    cfg, _ = _copy(original, tmp_path)
    victim = faults.hostile(tmp_path / 'victim.pth', tmp_path / 'ran')
    file = Path(cfg.work_dir, 'epoch_1.pth')
    content = torch.load(file, weights_only=False)
    info = {k: str(victim) if v == 'FOREIGN' else v for k, v in HUBS[case].items()}
    content['message_hub']['runtime_info'].update(info)
    torch.save(content, file)
    settle_resume(cfg)
    with faults.deletions() as touched:
        hook_runs.build(cfg, case).train()
    assert victim.is_file() and not (tmp_path / 'ran').exists()
    assert victim not in touched
    assert 'best_toy_mAP_epoch_2.pth' in _files(cfg)


def test_a_note_that_names_another_work_dir_is_refused(
    original: Path, tmp_path: Path
) -> None:
    cfg, theirs = _copy(original, tmp_path)
    Path(cfg.work_dir, 'epoch_1.pth').unlink()
    with pytest.raises(ResumeError, match='of another work dir') as error:
        settle_resume(cfg)
    assert error.value.actual == str(theirs / 'epoch_1.pth')
    faults.pipe(Path(cfg.work_dir, 'epoch_1.pth'))
    with pytest.raises(ResumeError):
        settle_resume(cfg)
    Path(cfg.work_dir, 'last_checkpoint').unlink()
    faults.pipe(Path(cfg.work_dir, 'last_checkpoint'))
    with pytest.raises(ResumeError, match='cannot be read'):
        settle_resume(cfg)


@pytest.mark.parametrize('metrics', [{}, {'pascal_voc/mAP': 0.0}])
def test_a_validation_that_detects_nothing_has_no_best_checkpoint(
    metrics: dict[str, float], tmp_path: Path
) -> None:
    """COCO yields no metric then; others do."""
    evaluators = [dict(type='CocoMetric'), dict(type='VOCMetric')]
    runner: Any = SimpleNamespace(
        cfg=Config(dict(val_evaluator=evaluators)), logger=logging.getLogger('best')
    )
    SafeCheckpointHook(save_best='coco/bbox_mAP').after_val_epoch(runner, metrics)
    runner.cfg.val_evaluator = dict(type='MyMetric')
    hook = SafeCheckpointHook(save_best='my/score', rule='greater')
    with pytest.raises(ConfigError) as caught:
        hook.after_val_epoch(runner, {'my/scores': 1.0})
    assert caught.value.available == ('my/scores',)
