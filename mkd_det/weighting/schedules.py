"""How far training is, and the factor a term's weight has by then."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmengine.logging import MessageHub

from ..errors import ConfigError, is_integer


@dataclass(frozen=True)
class Progress:
    """Where training stands. Outside a runner: iteration 0 of 1."""

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
        warmup_iters: Rise linearly from 0 over so many iterations.
        decay: None, 'linear' or 'cosine': fall to 0, over the whole training or
            until `decay_iters`.
        decay_iters: Iteration at which the decay reaches 0. Defaults to the end of
            the training.
        stop_epoch: From this epoch on (0-based) the factor is 0.
    """

    warmup_iters: int = 0
    decay: str | None = None
    decay_iters: int | None = None
    stop_epoch: int | None = None

    def __post_init__(self) -> None:
        if self.decay not in (None, 'linear', 'cosine'):
            raise ConfigError(
                'schedule: unknown decay',
                actual=self.decay,
                available=('linear', 'cosine'),
            )
        for name in ('warmup_iters', 'decay_iters', 'stop_epoch'):
            value = getattr(self, name)
            given = value is not None or name == 'warmup_iters'
            if given and not (is_integer(value) and value >= 0):
                raise ConfigError(
                    f'schedule: {name} must be a whole number, 0 or more',
                    actual=repr(value),
                )
        if self.decay_iters is not None and self.decay is None:
            raise ConfigError(
                'schedule: decay_iters without decay', fix="decay='linear'"
            )
        if self.decay_iters is not None and self.decay_iters <= self.warmup_iters:
            raise ConfigError(
                'schedule: the decay ends before the warm-up does',
                actual=f'warmup_iters={self.warmup_iters},'
                f' decay_iters={self.decay_iters}',
            )

    def factor(self, progress: Progress) -> float:
        """The factor at `progress`."""
        if self.stop_epoch is not None and progress.epoch >= self.stop_epoch:
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
