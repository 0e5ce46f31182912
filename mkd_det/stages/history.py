"""What mmengine logged of a run, over all its starts."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

MAP, MAP50 = 'coco/bbox_mAP', 'coco/bbox_mAP_50'
# The student's own losses. Terms come on top; they are no part of the curve,
# or runs with and without them could not be compared.
OWN_LOSSES = ('loss_cls', 'loss_bbox', 'loss_dfl')


@dataclass
class History:
    """A run's curves.

    Args:
        losses: By iteration, the detector's own loss.
        metrics: By epoch, the validation metrics, as they were logged: without a
            single detection CocoMetric says nothing.
        latest: Iteration that was logged last; 0 before the first.
        iters_per_epoch: As far as is known; 0 before the first iteration.
        times: By iteration, seconds that one took around it, its data included.
        memory: MiB of a GPU that were held at most; 0 without a GPU.
    """

    losses: dict[int, float] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    latest: int = 0
    iters_per_epoch: float = 0.0
    times: dict[int, float] = field(default_factory=dict)
    memory: float = 0.0


def read_history(folder: Path) -> History:
    """The history of the run in a work dir.

    A run that was interrupted has a log for each of its starts; what was done
    again counts as it was done last.

    Args:
        folder: The run's work dir.
    """
    history = History()
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        # The last line may still be in writing, or never have been written whole.
        for line in path.read_text(errors='replace').splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            with suppress(AttributeError, TypeError, ValueError):  # no entry of ours
                _add(history, entry)
    return history


def is_of_coco(key: str) -> bool:
    """Whether a metric, as logged, is one of CocoMetric's; its prefix may be any."""
    return key.rpartition('/')[2].startswith(('bbox_', 'segm_'))


def _add(history: History, entry: dict) -> None:
    step = int(entry.get('step', 0))
    if 'loss' in entry:
        own = [entry[key] for key in OWN_LOSSES if key in entry]
        history.losses[step] = sum(own) if own else entry['loss']
        history.latest = step
        history.iters_per_epoch = max(
            history.iters_per_epoch, step / max(entry.get('epoch', 1), 1)
        )
        if 'time' in entry:
            history.times[step] = entry['time']
        history.memory = max(history.memory, entry.get('memory', 0))
    elif 'lr' not in entry and 'data_time' in entry:
        # -1 is COCO's word for a size of which there is nothing to be found.
        history.metrics[step] = {
            k: math.nan if v == -1 else float(v) for k, v in entry.items() if '/' in k
        }
