"""Validates a training that was killed between its last step and its last figures."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class LastValidationHook(Hook):
    """Validates once more where a resumed training has nothing left to train.

    The last checkpoint is written before the last validation. A run that is killed
    between the two would end, resumed, without its figures: mmengine sees that all
    epochs are done.
    """

    # Before LoggerHook closes its files.
    priority = 'HIGH'

    def before_train(self, runner: Runner) -> None:
        """Remember where it begins."""
        self._start = runner.iter

    def after_train(self, runner: Runner) -> None:
        """Validate, if that is all there was to do."""
        if runner.iter == self._start > 0 and runner.val_loop is not None:
            runner.val_loop.run()
