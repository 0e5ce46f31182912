"""Note facts of a training in its checkpoints, and compare them on resume."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...data.datasets import dataset_classes
from ...data.labels import agreed_names, read_labels
from ...errors import MkdError
from ...training.class_names import RUN_RECORD
from ...training.class_order import SPLITS, is_described
from ...training.resume_report import report_differences
from ...training.runtime import get_distiller, is_distill


@HOOKS.register_module()
class RunRecordHook(Hook):
    """Notes in each checkpoint what it takes to compare trainings.

    These are the classes of the labels as the data yields them, the number of
    processes and the images a batch. A teacher's class order is known from there, also
    where its data is not. On resume, each difference is logged in one line, and each
    setting of the optimizer and the schedules that the config changes and mmengine
    restores from the checkpoint.

    mmengine notes the class names of the training data. Where it has none, as images
    without labels, those of the validation data are noted, or those of a teacher of the
    same classes: inference draws boxes with them.

    Raises:
        ResumeError: Gradients are accumulated, and an epoch has another number of
            iterations than before.
    """

    # After ResumeStateHook has refused checkpoints of another training.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._facts: dict[str, Any] | None = None
        self._names: tuple[str, ...] | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Log what differs from the training that is resumed."""
        if runner._resume and runner._train_loop is not None:
            for line in report_differences(runner, checkpoint, self.facts(runner)):
                runner.logger.warning(f'resume: {line}')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the facts beside the weights."""
        meta = checkpoint['meta']
        meta[RUN_RECORD] = self.facts(runner)
        data = meta.get('dataset_meta') or {}
        # Parts of a ConcatDataset that differ have a list of them.
        named = not isinstance(data, Mapping) or data.get('classes')
        if not named and (names := self._classes(runner)):
            meta['dataset_meta'] = {**data, 'classes': names}

    def _classes(self, runner: Runner) -> tuple[str, ...]:
        """Return the names of the student's classes; empty where they are not known."""
        if self._names is None:
            cfg: Mapping[str, Any] = runner.cfg
            known = []
            for split in SPLITS:
                with suppress(MkdError):  # test data need not be there yet
                    if is_described(cfg, split):
                        known.append(dataset_classes(cfg, split))
            if is_distill(runner.cfg):
                model = get_distiller(runner, type(self).__name__)
                known += [
                    teacher.classes
                    for name, teacher in model.teachers.items()
                    if model.plan.class_maps.get(name) is None
                ]
            self._names = next((tuple(names) for names in known if names), ())
        return self._names

    def facts(self, runner: Runner) -> dict[str, Any]:
        """Return the facts of this training: plain types only.

        Args:
            runner: The runner of the training.
        """
        if self._facts is None:
            loader = runner.train_dataloader
            cfg: Mapping[str, Any] = runner.cfg
            known = is_described(cfg, 'train')
            names = agreed_names(read_labels(cfg, 'train')) if known else ()
            self._facts = dict(
                label_names=list(names),
                world_size=get_world_size(),
                batch_size=loader.batch_size
                or getattr(loader.batch_sampler, 'batch_size', None),
                epoch_length=len(loader),
                accumulative_counts=getattr(
                    runner.optim_wrapper, '_accumulative_counts', 1
                ),
            )
        return dict(self._facts)
