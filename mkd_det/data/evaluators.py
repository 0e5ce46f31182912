"""Checks that a metric uses the annotations of the images it will see."""

from __future__ import annotations

import os.path as osp
from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS

from ..errors import AnnotationError, nearest_names
from .annotations import AnnotationSummary
from .coco import read_coco


def check_evaluators(
    evaluators: Any, summaries: Mapping[str, AnnotationSummary], classes: Sequence[str]
) -> None:
    """Check the annotation files of metrics.

    Args:
        evaluators: Config of an evaluator, or a list of configs.
        summaries: Summaries of the COCO datasets that are evaluated, by annotation
            file. If empty, the metric's file is not compared with them.
        classes: Class names of the datasets.

    Raises:
        AnnotationError: A file is missing or invalid, or has other images, other
            classes, or no boxes.
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
                expected=f'the ann_file of {metric.get("type")}',
                fix='use the ann_file of the dataset, including its data_root',
            )
        if _is_coco_metric(metric) and summaries:
            _compare(path, summaries, classes, bool(metric.get('sort_categories')))


def _is_coco_metric(metric: Mapping) -> bool:
    """Return whether a metric reads its file as CocoMetric does."""
    kind = metric.get('type')
    kind = kind if isinstance(kind, type) else METRICS.get(str(kind))
    measure = getattr(kind, 'compute_metrics', None)
    return measure is CocoMetric.compute_metrics


def _compare(
    path: str,
    summaries: Mapping[str, AnnotationSummary],
    classes: Sequence[str],
    sorts: bool,
) -> None:
    """Raise AnnotationError unless the metric's file fits the datasets."""
    own = {osp.realpath(file): summary for file, summary in summaries.items()}
    found = own.get(osp.realpath(path)) or read_coco(path, '', classes, test=True)
    images = frozenset().union(*(summary.ids for summary in summaries.values()))
    fix = f"ann_file='{next(iter(summaries))}' in the evaluator"
    if found.ids != images:
        both = len(found.ids & images)
        raise AnnotationError(
            f"the evaluator's {path} has other images than the dataset",
            expected=f'the {len(images)} image ids of the dataset',
            actual=f'{len(found.ids)} images, {both} of them in the dataset',
            fix=fix,
        )
    # Results hold class indices, and each file numbers its classes in its own order.
    orders = [
        [name for name in summary.names if name in classes]
        for summary in (found, *summaries.values())
    ]
    wrong = orders[0] != orders[-1] and not sorts
    if wrong or set(orders[0]) != set(classes):
        raise AnnotationError(
            f"the evaluator's {path} has other classes, or in another order",
            expected=', '.join(orders[-1]),
            actual=', '.join(found.names),
            available=nearest_names(classes[0], found.names),
            fix=fix,
        )
    boxes = sum(summary.boxes for summary in summaries.values())
    if boxes and not found.boxes:
        raise AnnotationError(
            f"the evaluator's {path} has no box to evaluate on",
            expected=f'the {boxes} boxes of the dataset',
            actual='; '.join(found.remarks) or None,
            fix=fix,
        )
    if found.without_iscrowd:
        raise AnnotationError(
            f'{path}: annotation {found.without_iscrowd} has no "iscrowd", which'
            ' pycocotools needs',
            expected='"iscrowd": 0 in each annotation',
            fix='"iscrowd": 0',
        )
