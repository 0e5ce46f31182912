"""When mmengine validates."""

from __future__ import annotations

from bisect import bisect
from typing import Any

from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop


def steps_done(loop: Any) -> int:
    """Return how many epochs are done; in a training that counts iterations, those.

    Args:
        loop: The training loop.
    """
    return loop.epoch if isinstance(loop, EpochBasedTrainLoop) else loop.iter


def validates_after(loop: Any, done: int) -> bool:
    """Return whether mmengine validates after a step; False for loops of others.

    Args:
        loop: The training loop.
        done: Epochs or iterations that are done after it.
    """
    if isinstance(loop, EpochBasedTrainLoop):
        last = loop.max_epochs
    elif isinstance(loop, IterBasedTrainLoop):
        last = loop.max_iters
    else:
        return False
    stage = bisect(loop.dynamic_milestones, done + 1) - 1
    interval = loop.dynamic_intervals[stage]
    return done >= loop.val_begin and (done % interval == 0 or done == last)
