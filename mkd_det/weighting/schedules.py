"""Schedules of a term's weight over the training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mmengine.logging import MessageHub

from ..errors import ConfigError
from ..parsing import parse


@dataclass(frozen=True)
class Progress:
    """How far the training is. Outside a runner: iteration 0 of 1.

    Args:
        iter: Iterations that are done.
        max_iters: Iterations of the whole training.
        epoch: Epochs that are done.
    """

    iter: int = 0
    max_iters: int = 1
    epoch: int = 0

    @classmethod
    def now(cls) -> Progress:
        """Read what mmengine's RuntimeInfoHook last told the message hub."""
        hub = MessageHub.get_current_instance()
        return cls(
            iter=int(hub.get_info('iter', 0)),
            max_iters=int(hub.get_info('max_iters', 1)),
            epoch=int(hub.get_info('epoch', 0)),
        )


@dataclass(frozen=True)
class WeightSchedule:
    """Factor in [0, 1] on a term's weight.

    Args:
        warmup_iters: Iterations over which the factor rises linearly from 0.
        decay: How the factor falls to 0: None (not at all), 'linear' or 'cosine'.
        decay_iters: Iteration at which the decay reaches 0; None: the end of the
            training.
        stop_epoch: Epoch (0-based) from which on the factor is 0; None: never. Only
            for a training that counts epochs.
        stop_iter: Iteration (0-based) from which on the factor is 0; None: never.
    """

    warmup_iters: int = 0
    decay: Literal['linear', 'cosine'] | None = None
    decay_iters: int | None = None
    stop_epoch: int | None = None
    stop_iter: int | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any] | None, where: str) -> WeightSchedule:
        """Make a schedule from a config's dict.

        Args:
            given: The dict; None for no schedule.
            where: Path of the dict in the config, for messages.

        Raises:
            ConfigError: A key or value is not valid.
        """
        return parse(cls, given, where)

    def __post_init__(self) -> None:
        for name in ('warmup_iters', 'decay_iters', 'stop_epoch', 'stop_iter'):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f'{name} must be 0 or more', actual=value)
        if self.decay_iters is None:
            return
        if self.decay is None:
            raise ConfigError('decay_iters without decay', fix="decay='linear'")
        if self.decay_iters <= self.warmup_iters:
            raise ConfigError(
                'the decay ends before the warm-up does',
                actual=f'warmup_iters={self.warmup_iters},'
                f' decay_iters={self.decay_iters}',
            )

    def factor(self, progress: Progress) -> float:
        """Return the factor at `progress`."""
        if self.stop_epoch is not None and progress.epoch >= self.stop_epoch:
            return 0.0
        if self.stop_iter is not None and progress.iter >= self.stop_iter:
            return 0.0
        factor = 1.0
        if progress.iter < self.warmup_iters:
            factor = (progress.iter + 1) / (self.warmup_iters + 1)
        if self.decay:
            end = progress.max_iters if self.decay_iters is None else self.decay_iters
            done = min(progress.iter / max(end, 1), 1.0)
            linear = self.decay == 'linear'
            factor *= 1 - done if linear else (1 + math.cos(math.pi * done)) / 2
        return factor
