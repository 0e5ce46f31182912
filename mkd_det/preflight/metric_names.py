"""Names of the metrics that the evaluators of a config log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..registry import type_name

# Types of metrics whose names are known here.
KNOWN_METRICS = ('ClassAccuracy', 'CocoMetric', 'VOCMetric')
_COCO_SUFFIXES = ('', '_50', '_75', '_s', '_m', '_l')
_COCO_RECALLS = ('@100', '@300', '@1000', '_s@1000', '_m@1000', '_l@1000')
_CLASS_SUFFIX = '_precision'


def metric_cfgs(evaluator: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the metrics of an evaluator, each with what stands before its names.

    Args:
        evaluator: Config of a metric or an evaluator, or a list of metrics.
    """
    prefixes: list[Any] | None = None
    if isinstance(evaluator, Mapping) and 'metrics' in evaluator:
        if type_name(evaluator.get('type')) == 'MultiDatasetsEvaluator':
            prefixes = _as_list(evaluator.get('dataset_prefixes') or [])
        evaluator = evaluator['metrics']
    metrics = [m for m in _as_list(evaluator or []) if isinstance(m, dict)]
    if prefixes is None:
        return [('', metric) for metric in metrics]
    return [(f'{prefix}/', metric) for prefix, metric in zip(prefixes, metrics)]


def metric_names(evaluator: Any) -> list[str]:
    """Return the names that an evaluator logs, most important first.

    Those of metrics of unknown types, and those of single classes, are left out.

    Args:
        evaluator: Config of a metric or an evaluator, or a list of metrics.
    """
    return [
        before + name
        for before, metric in metric_cfgs(evaluator)
        for name in _names(metric)
    ]


def is_logged(evaluator: Any, name: str) -> bool | None:
    """Return whether an evaluator logs a metric; None if it cannot be known.

    Args:
        evaluator: Config of a metric or an evaluator, or a list of metrics.
        name: Name of the metric, such as `coco/bbox_mAP`.
    """
    if name in metric_names(evaluator):
        return True
    metrics = [metric for _, metric in metric_cfgs(evaluator)]
    known = all(type_name(metric.get('type')) in KNOWN_METRICS for metric in metrics)
    by_class = any(m.get('classwise') for m in metrics) and name.endswith(_CLASS_SUFFIX)
    return None if by_class or not known else False


def _names(metric: Mapping[str, Any]) -> list[str]:
    """Return the names that a metric of a known type logs."""
    kind = type_name(metric.get('type'))
    if kind == 'ClassAccuracy':
        prefix = metric.get('prefix') or 'accuracy'
        return [f'{prefix}/top{k}' for k in _as_list(metric.get('topk', (1, 5)))]
    if kind == 'CocoMetric':
        prefix = metric.get('prefix') or 'coco'
        return [f'{prefix}/{name}' for name in _coco_names(metric)]
    if kind == 'VOCMetric' and metric.get('metric', 'mAP') in ('mAP', ['mAP']):
        prefix = metric.get('prefix') or 'pascal_voc'
        limits = _as_list(metric.get('iou_thrs', 0.5))
        named = [f'AP{int(limit * 100):02d}' for limit in limits]
        return [f'{prefix}/{name}' for name in ('mAP', *named)]
    return []


def _coco_names(metric: Mapping[str, Any]) -> list[str]:
    items = metric.get('metric_items')
    names: list[str] = []
    for kind in _as_list(metric.get('metric', 'bbox')):
        if kind in ('bbox', 'segm'):
            own = items or [f'mAP{suffix}' for suffix in _COCO_SUFFIXES]
            names += [f'{kind}_{item}' for item in own]
        elif kind == 'proposal':
            names += items or [f'AR{suffix}' for suffix in _COCO_RECALLS]
        elif kind == 'proposal_fast':
            numbers = metric.get('proposal_nums', (100, 300, 1000))
            names += [f'AR@{number}' for number in numbers]
    return names


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
