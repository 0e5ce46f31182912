"""Validation of a resumed training that has no iterations left."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class LastValidationHook(Hook):
    """Runs validation if a resumed training has no iterations left.

    The last checkpoint is written before the last validation. If a run is killed
    between the two, all epochs are complete after a resume, and mmengine would end
    without validating.
    """

    # Before LoggerHook closes its files.
    priority = 'HIGH'

    def before_train(self, runner: Runner) -> None:
        """Store the first iteration."""
        self._start = runner.iter

    def after_train(self, runner: Runner) -> None:
        """Run validation if no iteration was trained."""
        if runner.iter == self._start > 0 and runner.val_loop is not None:
            runner.val_loop.run()
