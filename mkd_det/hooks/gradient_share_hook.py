"""Log how hard each term pulls on the student, relative to the task."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ..distiller.losses import StepLosses
from ..errors import ConfigError
from ..training.runtime import as_distiller, get_distiller
from ..weighting.gradient_share import (
    TASK,
    counted_module,
    gradient_norms,
    shared_parameters,
)
from .distill_hook import DistillHook


@HOOKS.register_module()
class GradientShareHook(DistillHook):
    """Logs every term's gradient norm on the student, relative to the task's.

    It logs `stat_share_<term>`, without the term's `loss_`: 1 means that term and task
    pull equally hard, which the size of a loss does not tell. Own losses of adapters
    and branches count as terms. Each measurement costs one backward pass for each
    term. The hook warns when a share leaves the range from `low` to `high`, once until
    it comes back. In a step without a gradient of the task, as without labels or with
    `task_weight=0`, there is nothing to compare with, and nothing is logged.

    Args:
        interval: Iterations between measurements.
        on: Module of the student whose parameters count.
        low: Lower bound of the share; below it the hook warns.
        high: Upper bound of the share; above it the hook warns.
    """

    def __init__(
        self,
        interval: int = 100,
        on: str = 'backbone',
        low: float = 0.01,
        high: float = 10.0,
    ) -> None:
        if interval < 1 or not 0 <= low < high:
            raise ConfigError(
                'GradientShareHook: interval must be 1 or more, low from 0 to below'
                ' high',
                actual=(interval, low, high),
            )
        self.interval, self.on, self.low, self.high = interval, on, low, high
        self.warned: set[str] = set()

    def check_before_start(self, cfg: Config, model: nn.Module) -> None:
        """Raise ConfigError unless the module has trained parameters.

        Args:
            cfg: Config of the training.
            model: Its model.
        """
        shared_parameters(as_distiller(model, type(self).__name__).student, self.on)

    def before_train(self, runner: Runner) -> None:
        """Check that the module has trained parameters."""
        super().before_train(runner)
        self.check_before_start(runner.cfg, runner.model)

    def after_terms(self, runner: Runner, losses: StepLosses) -> None:
        """Measure, log and warn."""
        if runner.iter % self.interval:
            return
        distiller = get_distiller(runner, type(self).__name__)
        parameters = shared_parameters(distiller.student, self.on)
        norms = gradient_norms(losses.totals(), parameters)
        task = norms.pop(TASK, None)
        if not task:
            return
        for name, norm in norms.items():
            share = norm / task
            # Of names with 'loss' mmengine logs the mean over many measurements.
            losses[f'stat_share_{name.removeprefix("loss_")}'] = share
            fix = 'change its weight'
            if name in distiller.plan.terms:
                fix += (
                    ' (mkd-det calibrate finds one), or let balance=dict('
                    f"type='GradientShare', shares=dict({name}=0.5)) do it"
                )
            on = counted_module(distiller.student, self.on) or 'the student'
            self._warn(runner, name, float(share), f'gradient on {on}', fix)

    def _warn(
        self, runner: Runner, name: str, share: float, what: str, fix: str
    ) -> None:
        # A share of 0: the term does not reach these parameters at all.
        if share == 0 or self.low <= share <= self.high:
            self.warned.discard(name)
        elif name not in self.warned:
            self.warned.add(name)
            how = 'hardly counts' if share < self.low else 'outweighs the task'
            runner.logger.warning(
                f'{name} {how}: its {what} is {share:.3g} times the'
                f" task's, at iteration {runner.iter + 1}; {fix}"
            )
