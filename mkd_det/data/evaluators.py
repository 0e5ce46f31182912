"""Looks whether a metric measures by the annotations of the images it will see."""

from __future__ import annotations

import os.path as osp
from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS

from ..errors import AnnotationError, nearest_names
from .annotations import AnnotationSummary, read_coco


def check_evaluators(
    evaluators: Any, listings: Mapping[str, AnnotationSummary], classes: Sequence[str]
) -> None:
    """Check the annotation files of metrics.

    Args:
        evaluators: A config, or a list of them.
        listings: Of the COCO datasets that are measured, by annotation file. Empty
            where they are of another kind: then it is not compared with them.
        classes: Names of their classes.

    Raises:
        AnnotationError: A file is missing or broken, of other images, or of
            other classes.
    """
    if isinstance(evaluators, Mapping):
        evaluators = evaluators.get('metrics', evaluators)
    for metric in evaluators if isinstance(evaluators, Sequence) else [evaluators]:
        path = metric.get('ann_file') if isinstance(metric, Mapping) else None
        if not isinstance(path, str) or metric.get('backend_args'):
            continue
        if not osp.isfile(path):
            raise AnnotationError(
                f'there is no annotation file {path}',
                expected=f'ann_file of {metric.get("type")}',
                fix='the same file as in the dataset, with its data_root',
            )
        if _measures_as_coco(metric) and listings:
            _compare(path, listings, classes, bool(metric.get('sort_categories')))


def _measures_as_coco(metric: Mapping) -> bool:
    """Whether a metric reads its file as CocoMetric does."""
    kind = metric.get('type')
    kind = kind if isinstance(kind, type) else METRICS.get(str(kind))
    measure = getattr(kind, 'compute_metrics', None)
    return measure is CocoMetric.compute_metrics


def _compare(
    path: str,
    listings: Mapping[str, AnnotationSummary],
    classes: Sequence[str],
    sorts: bool,
) -> None:
    """Raise AnnotationError unless the metric's file is of the datasets' images."""
    own = {osp.realpath(file): listing for file, listing in listings.items()}
    found = own.get(osp.realpath(path)) or read_coco(path, '', classes, test=True)
    images = frozenset().union(*(listing.ids for listing in listings.values()))
    fix = f"ann_file='{next(iter(listings))}' in the evaluator"
    if found.ids != images:
        both = len(found.ids & images)
        raise AnnotationError(
            f"the evaluator's {path} is of other images than the dataset",
            expected=f'the ids of {len(images)} images, as the dataset has them',
            actual=f'{len(found.ids)} images, of which the dataset has {both}',
            fix=fix,
        )
    # Results hold numbers of classes; each file counts them in its own order.
    orders = [
        [name for name in listing.names if name in classes]
        for listing in (found, *listings.values())
    ]
    wrong = orders[0] != orders[-1] and not sorts
    if wrong or set(orders[0]) != set(classes):
        raise AnnotationError(
            f"the evaluator's {path} has other classes, or another order",
            expected=', '.join(orders[-1]),
            actual=', '.join(found.names),
            available=nearest_names(classes[0], found.names),
            fix=fix,
        )
    boxes = sum(listing.boxes for listing in listings.values())
    if boxes and not found.boxes:
        raise AnnotationError(
            f"the evaluator's {path} holds no box to measure by",
            expected=f"boxes, as the dataset's {boxes}",
            actual='; '.join(found.remarks) or None,
            fix=fix,
        )
    if found.unmarked:
        raise AnnotationError(
            f'{path}: annotation {found.unmarked} has no "iscrowd", and cannot be'
            ' measured',
            expected='"iscrowd": 0 in each annotation, for pycocotools',
            fix='"iscrowd": 0',
        )
