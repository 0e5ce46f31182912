"""Warn where gradient clipping cuts the task because of the terms."""

from __future__ import annotations

from typing import Any

from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..distiller.losses import StepLosses
from ..errors import ConfigError
from ..training.runtime import get_distiller
from ..weighting.gradient_share import TASK, gradient_norms
from .distill_hook import DistillHook

# The norm before clipping, as mmengine logs it.
NORM = 'train/grad_norm'


@HOOKS.register_module()
class GradientClipHook(DistillHook):
    """Warns once if `clip_grad` cuts the task's gradient because of the terms.

    Clipping sees the gradient of the sum. If the terms are large, the task's part
    becomes small with them: with a norm of 22 under a limit of 10, the student learns
    its task with 0.45 of the step that it would take alone. The hook compares the norm
    with that of the task alone, which costs one backward pass for each measurement,
    and says what to write. It does not change the training. Without `clip_grad`, with a
    norm other than the L2 norm, or where the task has no gradient (no labels,
    `task_weight=0`) it does nothing.

    Args:
        interval: Iterations between measurements, until it has warned. The first one is
            at the first iteration, where terms are largest.
        least: Part of the task's own step that may be left; below it the hook warns.
    """

    def __init__(self, interval: int = 100, least: float = 0.8) -> None:
        if interval < 1 or not 0 <= least <= 1:
            raise ConfigError(
                'GradientClipHook: interval must be 1 or more, least from 0 to 1',
                actual=(interval, least),
            )
        self.interval, self.least = interval, least
        self._limit: float | None = None
        # Norm of the task's gradient, its loss and the sum, of one iteration.
        self._measured: tuple[float, float, float] | None = None

    def before_train(self, runner: Runner) -> None:
        """Read the limit from the optimizer's wrapper."""
        super().before_train(runner)
        clip = getattr(runner.optim_wrapper, 'clip_grad_kwargs', None) or {}
        is_l2 = 'max_norm' in clip and clip.get('norm_type', 2) == 2
        self._limit = float(clip['max_norm']) if is_l2 else None

    def after_terms(self, runner: Runner, losses: StepLosses) -> None:
        """Measure the gradient of the task alone."""
        self._measured = None
        if self._limit is None or runner.iter % self.interval:
            return
        totals = losses.totals()
        task = {name: loss for name, loss in totals.items() if name == TASK}
        model = get_distiller(runner, 'GradientClipHook')
        parameters = [p for p in model.parameters() if p.requires_grad]
        try:
            norm = gradient_norms(task, parameters).get(TASK)
        except ConfigError:  # the model allows no second backward pass
            self._limit = None
            return
        if norm:
            own, total = (
                sum(float(value.detach()) for value in values)
                for values in (task.values(), totals.values())
            )
            self._measured = float(norm), own, total

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Compare with the norm that was clipped, and warn."""
        if self._measured is None or self._limit is None:
            return
        scalar = runner.message_hub.log_scalars.get(NORM)
        (task, *losses), self._measured = self._measured, None
        norm = float(scalar.current()) if scalar is not None else 0.0
        if norm > self._limit and max(task, self._limit) / norm < self.least:
            self._warn(runner, task, norm, losses)
            self._limit = None  # once is enough

    def _warn(
        self, runner: Runner, task: float, norm: float, losses: list[float]
    ) -> None:
        assert self._limit is not None
        own, total = losses
        kept = max(task, self._limit) / norm
        optimizer = type(runner.optim_wrapper.optimizer).__name__
        effect = f'the task gets {kept:.2f} of the step that it would take alone'
        if 'Adam' in optimizer:
            effect = (
                f'{optimizer} makes up for a constant cut, but the task is only'
                f' {min(task / norm, 1):.2f} of the direction of a step'
            )
        wanted = norm * min(1, self._limit / max(task, 1e-12))
        runner.logger.warning(
            f'Gradient clipping cuts the task because of the terms, at iteration'
            f' {runner.iter + 1}: the norm is {norm:.3g}, that of the task alone'
            f' {task:.3g}, clip_grad.max_norm {self._limit:g} (loss {total:.3g}, of the'
            f' task {own:.3g}); {effect}. Fix:'
            f' optim_wrapper=dict(clip_grad=dict(max_norm={wanted:.2g})), or smaller'
            " terms: balance=dict(type='GradientShare', shares=0.5) in the model"
        )
