"""The least score of each class at which a detector is as precise as wanted."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# Boxes that overlap ground truth so much (IoU) are right.
IOU = 0.5


def score_at_precision(
    scores: Sequence[float], right: Sequence[bool], precision: float
) -> float | None:
    """Return the least score down to which a share of the detections is right.

    Args:
        scores: Scores of the detections of a class.
        right: Whether each is right.
        precision: The share, from 0 to 1.

    Returns:
        The score; None where it is reached nowhere.
    """
    values = np.asarray(scores, dtype=float)
    order = np.argsort(-values, kind='stable')
    values, hits = values[order], np.cumsum(np.asarray(right, dtype=float)[order])
    share = hits / np.arange(1, len(order) + 1)
    # A score keeps all detections that have it: only the last of them counts.
    last = np.append(values[1:] != values[:-1], True)[: len(order)]
    good = np.flatnonzero(last & (share >= precision))
    return float(values[good[-1]]) if len(good) else None


def thresholds_at(
    ann_file: Path,
    found: Sequence[Mapping[str, Any]],
    classes: Mapping[int, str],
    precision: float,
) -> dict[str, float | None]:
    """Return the least score of each class at a precision.

    Args:
        ann_file: COCO json with the ground truth.
        found: Detections on all of its images, as COCO results: `image_id`,
            `category_id`, `bbox`, `score`.
        classes: Name of each category that counts. Categories of one name are one
            class.
        precision: The share of detections that are to be right.

    Returns:
        By class; None where the precision is reached nowhere.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(ann_file))
        if not found:
            return dict.fromkeys(classes.values())
        run = COCOeval(truth, truth.loadRes(list(found)), 'bbox')
        run.params.iouThrs = np.array([IOU])
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ['all']
        run.evaluate()
    scores: dict[str, list[float]] = {name: [] for name in classes.values()}
    right: dict[str, list[bool]] = {name: [] for name in classes.values()}
    for one in run.evalImgs:
        name = classes.get(one['category_id']) if one else None
        if name is None:
            continue
        kept = ~one['dtIgnore'][0].astype(bool)
        scores[name] += list(np.asarray(one['dtScores'])[kept])
        right[name] += list(one['dtMatches'][0][kept] > 0)
    return {n: score_at_precision(scores[n], right[n], precision) for n in scores}
