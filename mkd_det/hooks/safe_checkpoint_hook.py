"""mmengine's CheckpointHook, for disks that are full and runs that are killed."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..io.atomic import write_atomically


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """Saves a checkpoint completely or not at all, and only then deletes others.

    Takes the arguments of mmengine's `CheckpointHook` and does what it does,
    but for three things. A file appears under its name when it is complete
    (`last_checkpoint` too). An outdated checkpoint is deleted once the new one
    stands, so for a moment the disk holds one more than `max_keep_ckpts`. Every
    rank is told before a checkpoint is made (`before_checkpoint(runner)` of any
    hook), so that state of all ranks can go into it.

    Checkpoints that go to a remote storage are left to its own backend.

    Raises:
        CheckpointSaveError: The disk is full, or cannot be written for another
            reason. The previous checkpoint and `last_checkpoint` are as before.
    """

    backend_args: dict | None
    file_backend: Any

    def before_train(self, runner: Runner) -> None:
        """As mmengine's, with files that are written atomically."""
        out_dir = runner.work_dir if self.out_dir is None else str(self.out_dir)
        stock = self.backend_args is None and self.file_client_args is None
        if stock and isinstance(get_file_backend(out_dir), LocalBackend):
            self.backend_args = dict(backend='atomic')
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
        write_atomically(pointer, str(self.last_ckpt).encode())
        for path in outdated:
            _remove(self.file_backend, path)

    def _note_step(self, runner: Runner, step: int) -> list[str]:
        """Add `step` to the kept ones; the paths that must go for it."""
        # Saved again after validation, with the best score in it.
        if self.max_keep_ckpts <= 0 or step in list(self.keep_ckpt_ids)[-1:]:
            return []
        outdated = []
        while len(self.keep_ckpt_ids) >= self.max_keep_ckpts:
            name = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            outdated.append(self.file_backend.join_path(self.out_dir, name))
        self.keep_ckpt_ids.append(step)
        # The checkpoint itself carries this: a resumed run goes on deleting.
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        return outdated

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if self.save_best:
            runner.call_hook('before_checkpoint')
        with self._removals_deferred() as doomed:
            super()._save_best_checkpoint(runner, metrics)
        current = {getattr(self, 'best_ckpt_path', None), self.last_ckpt}
        current |= set(getattr(self, 'best_ckpt_path_dict', {}).values())
        for path in doomed:
            if path not in current:
                _remove(self.file_backend, path)

    @contextmanager
    def _removals_deferred(self) -> Iterator[list[str]]:
        """mmengine removes the previous best before it saves the new one: inside
        this block, removals are only noted down."""
        backend = self.file_backend
        noting = _NotingBackend(backend)
        self.file_backend = noting
        try:
            yield noting.doomed
        finally:
            self.file_backend = backend


def use_safe_checkpoint_hook(runner: Runner) -> None:
    """Let a runner of a plain config save as a distillation does. Its hook becomes
    one of ours; its config, which lies in the work dir, stays stock mmdet's."""
    for hook in runner.hooks:
        if type(hook) is CheckpointHook:
            hook.__class__ = SafeCheckpointHook


class _NotingBackend:
    """A file backend that notes what is to be removed."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.doomed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.doomed.append(path)

    rmtree = remove


def _remove(backend: Any, path: str) -> None:
    if backend.isfile(path):
        backend.remove(path)
    elif backend.isdir(path):
        # What deepspeed saves is a folder.
        backend.rmtree(path)
