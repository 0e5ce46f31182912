"""mmengine's CheckpointHook with atomic files, which touches files of its run only."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...errors import ConfigError, is_integer, nearest_names
from ...io.atomic import write_own
from ...io.paths import own_file
from ...preflight.metric_names import is_logged


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """Saves checkpoints atomically, and deletes outdated ones afterwards.

    It has the arguments of mmengine's `CheckpointHook` and differs in four points:

    - Files, including `last_checkpoint`, get their name when they are complete.
    - Outdated checkpoints are deleted after the new one is written, so the disk briefly
      holds one more than `max_keep_ckpts`.
    - `before_checkpoint(runner)` of every hook is called on all ranks before a
      checkpoint is saved, so that it can contain the state of all ranks.
    - Only files of its own folder are ever deleted. A resumed checkpoint names the best
      and the kept ones; in a copied work dir it names those of the original.

    Checkpoints on remote storage are written by the backend of that storage.

    Raises:
        CheckpointSaveError: The disk is full or cannot be written. The previous
            checkpoint and `last_checkpoint` are unchanged.
    """

    backend_args: dict | None
    file_backend: Any

    def before_train(self, runner: Runner) -> None:
        """Set up mmengine's hook with an atomic file backend."""
        out_dir = runner.work_dir if self.out_dir is None else str(self.out_dir)
        stock = self.backend_args is None and self.file_client_args is None
        if stock and isinstance(get_file_backend(out_dir), LocalBackend):
            self.backend_args = dict(backend='atomic')
        forget_foreign_files(runner, self)
        super().before_train(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated = self._note_step(runner, step)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.call_hook('before_checkpoint')
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        pointer = osp.join(runner.work_dir, 'last_checkpoint')
        write_own(pointer, str(self.last_ckpt).encode())
        for path in outdated:
            _remove(self.file_backend, path)

    def _note_step(self, runner: Runner, step: int) -> list[str]:
        """Add `step` to the kept checkpoints; return the paths to delete."""
        # The same step is saved again after validation, with the best score.
        if self.max_keep_ckpts <= 0 or step in list(self.keep_ckpt_ids)[-1:]:
            return []
        outdated = []
        while len(self.keep_ckpt_ids) >= self.max_keep_ckpts:
            name = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            outdated.append(self.file_backend.join_path(self.out_dir, name))
        self.keep_ckpt_ids.append(step)
        # It is saved in the checkpoint, so a resumed run continues to delete.
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        return outdated

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if self.save_best:
            if not _are_measured(self.key_indicators, metrics, runner):
                return
            runner.call_hook('before_checkpoint')
        with self._removals_deferred() as removed:
            super()._save_best_checkpoint(runner, metrics)
        current = {getattr(self, 'best_ckpt_path', None), self.last_ckpt}
        current |= set(getattr(self, 'best_ckpt_path_dict', {}).values())
        for path in removed:
            if path not in current:
                _remove(self.file_backend, path)

    @contextmanager
    def _removals_deferred(self) -> Iterator[list[str]]:
        """Collect removals instead of running them.

        mmengine removes the previous best checkpoint before it saves the new one.
        """
        backend = self.file_backend
        recording = _RecordingBackend(backend)
        self.file_backend = recording
        try:
            yield recording.removed
        finally:
            self.file_backend = backend


def use_safe_checkpoint_hook(runner: Runner) -> None:
    """Make a runner of a plain config save checkpoints with `SafeCheckpointHook`.

    Changes the class of its hook. Its config, which is saved in the work dir, stays
    valid for stock mmdet.

    Args:
        runner: The runner.
    """
    for hook in list(runner.hooks):
        if type(hook) is CheckpointHook:
            hook.__class__ = SafeCheckpointHook
        elif isinstance(hook, CheckpointHook):
            runner.register_hook(OwnFilesHook(hook))


class OwnFilesHook(Hook):
    """Keeps a checkpoint hook of somebody else from deleting files of another run.

    Args:
        hook: The hook that saves checkpoints.
    """

    priority = 'HIGHEST'

    def __init__(self, hook: CheckpointHook) -> None:
        self.hook = hook

    def before_train(self, runner: Runner) -> None:
        """Check what the resumed checkpoint names, before the hook reads it."""
        forget_foreign_files(runner, self.hook)


def forget_foreign_files(runner: Runner, hook: CheckpointHook) -> None:
    """Let the message hub name no files but those of this run.

    mmengine restores the hub from the checkpoint that is resumed. It opens and deletes
    the files that it names: the best checkpoint, and those with kept numbers.

    Args:
        runner: The runner, with the checkpoint loaded.
        hook: Saves its checkpoints; `before_train` has not been called.
    """
    hub, folder = runner.message_hub, _folder(runner, hook)
    for key in list(hub.runtime_info):
        if key == 'best_ckpt' or key.startswith('best_ckpt_'):
            _settle_best(runner, key, folder)
    kept = hub.runtime_info.get('keep_ckpt_ids', [])
    if not isinstance(kept, list) or not all(is_integer(n) and n >= 0 for n in kept):
        hub.pop_info('keep_ckpt_ids')


def _folder(runner: Runner, hook: CheckpointHook) -> str:
    """Return where a hook saves, as mmengine works it out."""
    out_dir = str(hook.out_dir or runner.work_dir)
    if out_dir == runner.work_dir:
        return out_dir
    return osp.join(out_dir, osp.basename(runner.work_dir.rstrip(osp.sep)))


def _settle_best(runner: Runner, key: str, folder: str) -> None:
    """Let a best checkpoint be the one in the folder of this run, or forget it."""
    hub, named = runner.message_hub, runner.message_hub.get_info(key)
    if isinstance(get_file_backend(folder), LocalBackend):
        own = own_file(named, folder)
    else:
        name = osp.basename(str(named))
        own = named if named == osp.join(folder, name) else None
    score_key = key.replace('ckpt', 'score', 1)
    score = hub.runtime_info.get(score_key)
    if not isinstance(score, Real):
        hub.runtime_info.pop(score_key, None)
    # mmengine calls it best_<metric>_<checkpoint>; nothing else may be deleted for it.
    if own is None or not osp.basename(own).startswith('best_'):
        runner.logger.warning(
            f'The best checkpoint so far, {named} (score {score}), is not in {folder}:'
            ' it stays where it is, and the next better one is saved here'
        )
        hub.pop_info(key)
    elif own != named:
        hub.update_info(key, own)


class _RecordingBackend:
    """A file backend that records removals instead of running them."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.removed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.removed.append(path)

    rmtree = remove


def _are_measured(names: Iterable[str], metrics: dict, runner: Runner) -> bool:
    """Return whether a validation has yielded all metrics that a checkpoint is best by.

    Raises:
        ConfigError: A metric is none of the evaluator's. Those of COCO are absent where
            nothing was detected.
    """
    absent = [name for name in names if name != 'auto' and name not in metrics]
    for name in absent:
        if not is_logged(runner.cfg.get('val_evaluator'), name):
            raise ConfigError(
                f'save_best: the validation does not measure {name!r}',
                actual=name,
                available=nearest_names(name, metrics, limit=12),
            )
        runner.logger.warning(
            f'This validation has no {name}, so no checkpoint is saved as the best'
        )
    return not absent


def _remove(backend: Any, path: str) -> None:
    if backend.isfile(path):
        backend.remove(path)
    elif backend.isdir(path):
        # A checkpoint of deepspeed is a folder.
        backend.rmtree(path)
