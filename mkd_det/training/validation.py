"""When mmengine validates."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping
from typing import Any

from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from ..errors import is_integer
from .class_names import RUN_RECORD


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


def epoch_length(checkpoint: Mapping[str, Any]) -> int | None:
    """Return how many iterations an epoch had when a checkpoint was saved.

    Args:
        checkpoint: What the file holds.

    Returns:
        The number; None if `RunRecordHook` has not noted it.
    """
    meta = checkpoint.get('meta')
    facts = meta.get(RUN_RECORD) if isinstance(meta, Mapping) else None
    length = facts.get('epoch_length') if isinstance(facts, Mapping) else None
    known = isinstance(length, int) and is_integer(length) and length > 0
    return length if known else None


def in_mid_epoch(loop: Any, length: int | None) -> bool:
    """Return whether a resumed checkpoint was saved in the middle of an epoch.

    Args:
        loop: The training loop, at the step of the checkpoint.
        length: What `epoch_length` returned. None for that of the loop itself, which
            differs with other processes or batches.
    """
    if not isinstance(loop, EpochBasedTrainLoop):
        return False
    return bool(loop.iter % (length or max(len(loop.dataloader), 1)))
