"""Checks that a metric uses the annotations of the images it will see."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmdet.evaluation import CocoMetric, MultiDatasetsEvaluator
from mmdet.registry import EVALUATOR, METRICS
from mmengine.evaluator import Evaluator

from ...errors import AnnotationError, ConfigError, nearest_names
from ..formats.annotations import AnnotationSummary
from ..formats.coco import read_coco
from .annotated_dataset import AnnotatedDataset


def check_evaluators(
    evaluators: Any, parts: Sequence[Sequence[AnnotatedDataset | None]]
) -> None:
    """Check the annotation files of metrics.

    Args:
        evaluators: Config of an evaluator, or a list of configs.
        parts: The datasets of each part of a concatenated dataset, as they were
            checked; None for a dataset whose files were not read. The files of a
            metric that sees such a dataset are not compared.

    Raises:
        AnnotationError: A file is missing or invalid, or has other images, other
            classes, or no boxes.
    """
    for metric, datasets in _metrics_with_datasets(evaluators, parts):
        path = metric.get('ann_file') if isinstance(metric, Mapping) else None
        if not isinstance(path, str) or metric.get('backend_args'):
            continue
        if not osp.isfile(path):
            raise AnnotationError(
                f'there is no annotation file {path}',
                expected=f'the ann_file of {metric.get("type")}',
                fix='use the ann_file of the dataset, including its data_root',
            )
        known = [data for data in datasets if data is not None and data.is_coco]
        _check_part(path, known, parts)
        if known and len(known) == len(datasets) and _is_coco_metric(metric):
            summaries = {data.dataset.ann_file: data.annotations for data in known}
            sorts = bool(metric.get('sort_categories'))
            _compare(path, summaries, known[-1].classes, sorts)


def _metrics_with_datasets(
    evaluators: Any, parts: Sequence[Sequence[AnnotatedDataset | None]]
) -> Iterator[tuple[Any, Sequence[AnnotatedDataset | None]]]:
    """Yield each metric and the datasets whose images it evaluates.

    A `MultiDatasetsEvaluator` has one metric for each part of the data; all others see
    all of it.
    """
    by_part = False
    if isinstance(evaluators, Mapping) and 'metrics' in evaluators:
        by_part = is_by_dataset(evaluators)
        evaluators = evaluators['metrics']
    if isinstance(evaluators, Mapping):
        evaluators = [evaluators]
    if not isinstance(evaluators, Sequence) or isinstance(evaluators, str):
        return  # `check_loaders` refuses it
    if by_part:
        yield from zip(evaluators, parts)
        return
    everything = [data for part in parts for data in part]
    yield from ((metric, everything) for metric in evaluators)


def is_by_dataset(evaluator: Mapping[str, Any]) -> bool:
    """Return whether an evaluator has a metric for each part of the data."""
    kind = evaluator.get('type')
    kind = kind if isinstance(kind, type) else EVALUATOR.get(str(kind))
    return kind is not None and issubclass(kind, MultiDatasetsEvaluator)


def check_parts(evaluator: Evaluator, dataset: Any, where: str) -> None:
    """Raise unless an evaluator has a metric and a name for each part of the data.

    mmdet finds this out after the first epoch, or leaves the rest out in silence.

    Args:
        evaluator: The evaluator, built.
        dataset: The dataset of its loader, built.
        where: Name of the evaluator, for messages.

    Raises:
        ConfigError: The numbers differ, a name is there twice, or the dataset is not
            concatenated.
    """
    if not isinstance(evaluator, MultiDatasetsEvaluator):
        return
    meta = getattr(dataset, 'metainfo', None) or {}
    meta = meta if isinstance(meta, Mapping) else meta[0]
    ends = list(meta.get('cumulative_sizes') or ())
    if not ends or ends[-1] != len(dataset):
        raise ConfigError(
            f'{where}: MultiDatasetsEvaluator needs a concatenated dataset',
            expected="dataset=dict(type='ConcatDataset', datasets=[...])",
            actual=type(dataset).__name__,
        )
    prefixes = list(evaluator.dataset_prefixes)
    counts = (len(evaluator.metrics), len(prefixes))
    if counts != (len(ends), len(ends)):
        raise ConfigError(
            f'{where}: the data has {len(ends)} parts, the evaluator has {counts[0]}'
            f' metrics and {counts[1]} names',
            expected=f'metrics and dataset_prefixes of length {len(ends)}',
            actual=prefixes,
        )
    names = [(p, m.prefix) for p, m in zip(prefixes, evaluator.metrics)]
    if len(set(names)) < len(names):
        raise ConfigError(
            f'{where}: two parts of the data have the same name',
            expected='another name for each in dataset_prefixes',
            actual=prefixes,
        )


def _is_coco_metric(metric: Mapping) -> bool:
    """Return whether a metric reads its file as CocoMetric does."""
    kind = metric.get('type')
    kind = kind if isinstance(kind, type) else METRICS.get(str(kind))
    measure = getattr(kind, 'compute_metrics', None)
    return measure is CocoMetric.compute_metrics


def _check_part(
    path: str,
    own: Sequence[AnnotatedDataset],
    parts: Sequence[Sequence[AnnotatedDataset | None]],
) -> None:
    """Raise AnnotationError if a metric has the annotations of another part.

    Their images may have the same ids, so that only the figures would be wrong.
    """
    files = [osp.realpath(data.dataset.ann_file) for data in own]
    others = {
        osp.realpath(data.dataset.ann_file)
        for part in parts
        for data in part
        if data is not None and data.is_coco
    }
    if files and osp.realpath(path) in others - set(files):
        raise AnnotationError(
            f'a metric evaluates one part of the data by {path}, the annotations of'
            ' another part',
            expected=own[0].dataset.ann_file,
            actual=path,
            fix='metrics in the order of the parts of ConcatDataset',
        )


def _compare(
    path: str,
    summaries: Mapping[str, AnnotationSummary],
    classes: Sequence[str],
    sorts: bool,
) -> None:
    """Raise AnnotationError unless the metric's file fits the datasets."""
    own = {osp.realpath(file): summary for file, summary in summaries.items()}
    found = own.get(osp.realpath(path)) or read_coco(path, '', classes, test=True)
    fix = f"ann_file='{next(iter(summaries))}' in the evaluator"
    _compare_images(path, found, summaries, fix)
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


def _compare_images(
    path: str,
    found: AnnotationSummary,
    summaries: Mapping[str, AnnotationSummary],
    fix: str,
) -> None:
    """Raise AnnotationError unless the metric's file has the images of the datasets."""
    by_file = {osp.realpath(file): summary for file, summary in summaries.items()}
    images = frozenset().union(*(summary.ids for summary in by_file.values()))
    shared = sum(len(summary.ids) for summary in by_file.values()) - len(images)
    if shared:
        raise AnnotationError(
            f'parts of the data share {shared} image ids, which one metric takes for'
            ' the same images',
            expected='another id for each image',
            actual=', '.join(summaries),
            fix="val_evaluator=dict(type='MultiDatasetsEvaluator', metrics=[...],"
            " dataset_prefixes=['a', 'b'])",
        )
    if found.ids != images:
        both = len(found.ids & images)
        raise AnnotationError(
            f"the evaluator's {path} has other images than the dataset",
            expected=f'the {len(images)} image ids of the dataset',
            actual=f'{len(found.ids)} images, {both} of them in the dataset',
            fix=fix,
        )
    names = [
        {osp.basename(image) for image in one.images}
        for one in (found, *summaries.values())
    ]
    if found.images and not names[0] & set().union(*names[1:]):
        raise AnnotationError(
            f"the evaluator's {path} has other images under the ids of the dataset",
            expected=min(set().union(*names[1:]), default=None),
            actual=min(names[0]),
            fix=fix,
        )
