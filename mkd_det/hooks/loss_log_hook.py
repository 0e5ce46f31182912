"""Let the logged losses add up to the logged total."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..distiller.losses import STATISTIC
from ..training.runtime import get_distiller

_PREFIX = 'train/'
_TOTAL = 'loss'


@HOOKS.register_module()
class LossLogHook(Hook):
    """Logs no term that is off, and lets the logged losses add up to `loss`.

    mmengine logs the mean of the last values of each loss, for each over the steps that
    had it, and shows the last ones for ever. So a term that a schedule has ended, or
    whose teacher was not picked, would be shown beside a total that it is no part of.
    With this hook a loss that a step lacks counts as 0 in the mean, and one that all
    steps of the window lacked is not logged at all, with its statistics.
    """

    # After RuntimeInfoHook has noted the losses, before LoggerHook prints them.
    priority = 'ABOVE_NORMAL'

    def __init__(self) -> None:
        # Steps since a loss was last there, by its name.
        self._missing: dict[str, int] = {}

    def before_train(self, runner: Runner) -> None:
        """Take over the losses that a resumed checkpoint has logged."""
        names = (
            key.removeprefix(_PREFIX)
            for key in runner.message_hub.log_scalars
            if key.startswith(_PREFIX)
        )
        self._missing = dict.fromkeys(filter(_is_part, names), 0)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Complete the log of this step."""
        if outputs is None:
            return
        scalars = runner.message_hub.log_scalars
        window = int(runner.log_processor.window_size)
        for name in outputs:
            if _is_part(name):
                if self._missing.get(name, window) >= window:
                    _put_zeros_before(scalars, name, window)
                self._missing[name] = 0
        for name in self._missing.keys() - outputs.keys():
            self._missing[name] += 1
            if self._missing[name] < window:
                runner.message_hub.update_scalar(_PREFIX + name, 0.0)
            else:
                scalars.pop(_PREFIX + name, None)
        self._hide_statistics(runner, scalars)

    def _hide_statistics(self, runner: Runner, scalars: dict[str, Any]) -> None:
        """Remove the statistics of terms that are not logged."""
        terms = get_distiller(runner, 'LossLogHook').plan.terms
        live = {
            _term_of(key.removeprefix(_PREFIX), terms)
            for key in scalars
            if key.startswith(_PREFIX) and _is_part(key.removeprefix(_PREFIX))
        }
        for term in terms.keys() - live:
            for name in (f'{term}_factor', f'share_{term.removeprefix("loss_")}'):
                scalars.pop(f'{_PREFIX}{STATISTIC}{name}', None)


def _is_part(name: str) -> bool:
    """Return whether a logged value is a part of the total."""
    return 'loss' in name and name != _TOTAL and not name.startswith(STATISTIC)


def _term_of(name: str, terms: Iterable[str]) -> str:
    """Return the term that a loss belongs to; '' for none."""
    fits = (term for term in terms if name == term or name.startswith(f'{term}_'))
    return max(fits, key=len, default='')


def _put_zeros_before(scalars: dict[str, Any], name: str, window: int) -> None:
    """Let a loss that is there for the first time have been 0 before."""
    total = len(scalars[_PREFIX + _TOTAL].data[0])
    value = scalars[_PREFIX + name].current()
    history = [0.0] * (min(total, window) - 1) + [value]
    scalars[_PREFIX + name] = HistoryBuffer(history, [1] * len(history))
