"""Write the plain student into the work dir: config and weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process, master_only
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import weights_to_cpu

from ..checkpoints.checkpoint import read_checkpoint, read_meta
from ..errors import ConfigError
from ..io.atomic import drop_link, write_own
from ..training.export import save_student
from ..training.runtime import get_distiller, is_distill
from ..training.student_config import student_config
from .recovery.divergence_hook import DivergenceHook
from .recovery.run_record_hook import RunRecordHook


@HOOKS.register_module()
class ExportStudentHook(Hook):
    """Writes the plain student: weights and config that need no mkd_det.

    It writes into the work dir, when training ends and whenever `CheckpointHook` has
    saved a new best checkpoint (its `save_best`). Stock mmdet reads the files:

        mmdet.apis.init_detector('student_config.py', 'student_last.pth')

    With `EMAHook`, the weights are the averaged ones.

    Args:
        last: File name of the student at the end of training; None for none.
        best: File name of the best student; None for none. With several best
            metrics, each has a file of its own: `student_best_<metric>.pth`.
        config: File name of the student's config.

    Raises:
        CheckpointSaveError: A file could not be written.
    """

    # After CheckpointHook has saved the best and EMAHook has swapped back.
    priority = 'LOWEST'

    def __init__(
        self,
        last: str | None = 'student_last.pth',
        best: str | None = 'student_best.pth',
        config: str = 'student_config.py',
    ) -> None:
        for name in (last, best):
            if name is not None and not name.endswith('.pth'):
                raise ConfigError(
                    'ExportStudentHook: weights go to a .pth file', actual=name
                )
        self.last, self.best, self.config = last, best, config
        self._exported: dict[str, str] = {}
        self._text: str | None = None

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Write the config, which is known from the start."""
        get_distiller(runner, 'ExportStudentHook')
        if not is_distill(runner.cfg):
            runner.logger.warning(
                'The runner was built without a config: weights of the student will'
                f' be exported, but no {self.config}'
            )
            return
        # Formatting takes a second: once is enough.
        self._text = student_config(runner.cfg).pretty_text
        write_own(Path(runner.work_dir, self.config), self._text.encode())

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Export the best student, if it is a new one."""
        if self.best is None or not is_main_process():
            return
        for key, path in runner.message_hub.runtime_info.items():
            if key != 'best_ckpt' and not key.startswith('best_ckpt_'):
                continue
            if self._exported.get(key) != path and Path(path).is_file():
                self._export_best(runner, key.removeprefix('best_ckpt'), path)
                self._exported[key] = path

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Export the student as it is at the end."""
        if self.last is None:
            return
        model = runner.model
        while is_model_wrapper(model):
            model = model.module
        meta: dict = dict(epoch=runner.epoch, iter=runner.iter, seed=runner.seed)
        data = runner.train_dataloader.dataset
        if hasattr(data, 'metainfo'):
            meta['dataset_meta'] = data.metainfo
        content = dict(state_dict=model.state_dict(), meta=meta)
        for hook in runner.hooks:
            # Averaged weights replace the last ones; facts are noted; weights that are
            # not finite are refused.
            if isinstance(hook, (EMAHook, RunRecordHook, DivergenceHook)):
                hook.before_save_checkpoint(runner, content)
        self._write(runner, self.last, weights_to_cpu(content['state_dict']), meta)

    def _export_best(self, runner: Runner, suffix: str, path: str) -> None:
        assert self.best is not None
        stem = Path(self.best)
        name = f'{stem.stem}{suffix.replace("/", "_")}{stem.suffix}'
        content = read_checkpoint(path)
        self._write(runner, name, content['state_dict'], read_meta(content))

    def _write(
        self, runner: Runner, name: str, weights: Mapping[str, Any], meta: dict
    ) -> None:
        path = Path(runner.work_dir, name)
        drop_link(path)
        save_student(path, weights, meta, self._text)
        print_log(f'Plain student written to {path}', logger=runner.logger)
