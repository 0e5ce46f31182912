"""Shows how much each term pulls, beside the task."""

from __future__ import annotations

from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ..errors import ConfigError
from ..training.runtime import get_distiller
from ..weighting.gradient_share import TASK, gradient_norms, shared_parameters
from .distill_hook import DistillHook


@HOOKS.register_module()
class GradientShareHook(DistillHook):
    """Logs every term's gradient norm on the student, relative to the task's.

    As `stat_share_<term>`, without the term's `loss_`: 1 means that term and task pull
    equally hard. The size of a loss tells nothing of that. Adapters' and branches' own
    losses are terms here. Each measurement costs a backward pass a term. A term that
    drowns the task, or is drowned, is warned of, once until it comes back.

    Args:
        interval: Iterations between measurements.
        on: Module of the student whose parameters count.
        low: Least share that is no reason for a warning.
        high: Greatest.
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

    def before_train(self, runner: Runner) -> None:
        """See that there is what is to be measured."""
        super().before_train(runner)
        shared_parameters(get_distiller(runner, type(self).__name__).student, self.on)

    def after_terms(self, runner: Runner, losses: dict[str, Tensor]) -> None:
        """Measure, log and warn."""
        if runner.iter % self.interval:
            return
        distiller = get_distiller(runner, type(self).__name__)
        parameters = shared_parameters(distiller.student, self.on)
        norms = gradient_norms(distiller.totals(losses), parameters)
        task = norms.pop(TASK)
        for name, norm in norms.items():
            share = norm / task.clamp_min(1e-12)
            # Of names with 'loss' mmengine logs the mean over many measurements.
            losses[f'stat_share_{name.removeprefix("loss_")}'] = share
            fix = 'change its weight'
            if name in distiller.plan.terms:
                fix += (
                    ", or let balance=dict(type='GradientShare',"
                    f' shares=dict({name}=0.5)) do it'
                )
            self._warn(runner, name, float(share), fix)

    def _warn(self, runner: Runner, name: str, share: float, fix: str) -> None:
        # What does not reach these parameters at all is not drowned in them.
        if share == 0 or self.low <= share <= self.high:
            self.warned.discard(name)
        elif name not in self.warned:
            self.warned.add(name)
            how = 'is drowned by the task' if share < self.low else 'drowns the task'
            runner.logger.warning(
                f'{name} {how}: its gradient on {self.on} is {share:.3g} times the'
                f" task's, at iteration {runner.iter + 1}; {fix}"
            )
