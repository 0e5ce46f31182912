"""Reads the curves of a training from the logs that mmengine writes."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

BOX_MAP, BOX_MAP_50 = 'coco/bbox_mAP', 'coco/bbox_mAP_50'
# The student's own losses. Distillation terms are not part of the loss curve, so
# that runs with and without them can be compared.
OWN_LOSSES = ('loss_cls', 'loss_bbox', 'loss_dfl')


@dataclass
class History:
    """Curves of one training.

    Args:
        losses: The detector's own loss, by iteration.
        metrics: Validation metrics as they were logged, by epoch (by iteration for
            trainings that count iterations). CocoMetric logs nothing when the model
            finds no object at all.
        last_iteration: The last logged iteration; 0 before the first.
        iters_per_epoch: Iterations per epoch as far as logged; 0 before the first.
        times: Seconds per iteration, data loading included, by iteration.
        memory: Peak GPU memory in MiB; 0 without a GPU.
        parts: Every loss that is a part of the total, by name and iteration.
    """

    losses: dict[int, float] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    last_iteration: int = 0
    iters_per_epoch: float = 0.0
    times: dict[int, float] = field(default_factory=dict)
    memory: float = 0.0
    parts: dict[str, dict[int, float]] = field(default_factory=dict)


def read_history(folder: Path) -> History:
    """Read the history of the training in a work dir.

    An interrupted training has one log for each start. Where two logs overlap, the
    later one counts.

    Args:
        folder: Work dir of the training.
    """
    history = History()
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        # The last line may be incomplete: still in writing, or cut off by a kill.
        for line in path.read_text(errors='replace').splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            with suppress(AttributeError, TypeError, ValueError):  # not a log entry
                _add(history, entry)
    return history


def is_coco_metric(key: str) -> bool:
    """Tell whether a logged metric comes from CocoMetric, whatever its prefix."""
    return key.rpartition('/')[2].startswith(('bbox_', 'segm_'))


def _add(history: History, entry: dict) -> None:
    step = int(entry.get('step', 0))
    if 'loss' in entry:
        own = [entry[key] for key in OWN_LOSSES if key in entry]
        history.losses[step] = sum(own) if own else entry['loss']
        for key, value in entry.items():
            if key.startswith('loss_'):
                history.parts.setdefault(key, {})[step] = value
        history.last_iteration = step
        history.iters_per_epoch = max(
            history.iters_per_epoch, step / max(entry.get('epoch', 1), 1)
        )
        if 'time' in entry:
            history.times[step] = entry['time']
        history.memory = max(history.memory, entry.get('memory', 0))
    elif 'lr' not in entry and 'data_time' in entry:
        # COCO logs -1 where the data has no object of that size.
        history.metrics[step] = {
            k: math.nan if v == -1 else float(v) for k, v in entry.items() if '/' in k
        }
