"""Finds out which metric counts for a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from ...errors import ConfigError, nearest_names
from ...registry import type_name

# Evaluators whose metrics are known here. Without another choice, the first metric
# of the first evaluator counts.
KNOWN_EVALUATORS = ('ClassAccuracy', 'CocoMetric', 'VOCMetric')
_COCO_SUFFIXES = ('', '_50', '_75', '_s', '_m', '_l')
_CLASS_SUFFIX = '_precision'


def evaluators_of(cfg: Config) -> list[Any]:
    """Return the validation evaluators of a config, as they stand there."""
    found = cfg.get('val_evaluator') or []
    return [found] if isinstance(found, Mapping) else list(found)


def main_metric(cfg: Config, title: str, wanted: str = '') -> tuple[str, str]:
    """Return the name of the metric that counts, and its key in the log.

    Args:
        cfg: Config of a training.
        title: Title of the training, for messages.
        wanted: The key; default: the first metric of the evaluators.

    Raises:
        ConfigError: There is no evaluator, its metrics are unknown, or it does not
            measure the wanted one.
    """
    evaluators = evaluators_of(cfg)
    types = [type_name(evaluator.get('type')) for evaluator in evaluators]
    measured = [
        key for name, e in zip(types, evaluators) for key in logged_keys(name, e)
    ]
    key = wanted or next(iter(measured), '')
    if not types or not key:
        raise ConfigError(
            f'{title}: it is unknown which metric counts',
            expected='a `val_evaluator` of a known type, or `metric`',
            actual=types or None,
            available=KNOWN_EVALUATORS,
            fix="metric='coco/bbox_mAP'",
        )
    by_class = any(e.get('classwise') for e in evaluators) and key.endswith(
        _CLASS_SUFFIX
    )
    if set(types) <= set(KNOWN_EVALUATORS) and key not in measured and not by_class:
        raise ConfigError(
            f'{title}: its evaluator does not measure `metric`',
            actual=key,
            available=nearest_names(key, measured),
        )
    return key.rpartition('/')[2], key


def logged_keys(evaluator_type: str, evaluator: Mapping[str, Any]) -> list[str]:
    """Return the keys that an evaluator of a known type logs, most important first."""
    if evaluator_type == 'ClassAccuracy':
        return [f'accuracy/top{k}' for k in _as_list(evaluator.get('topk', 1))]
    if evaluator_type == 'CocoMetric':
        prefix = evaluator.get('prefix') or 'coco'
        default = [f'mAP{suffix}' for suffix in _COCO_SUFFIXES]
        items = evaluator.get('metric_items') or default
        metrics = _as_list(evaluator.get('metric', 'bbox'))
        known = [metric for metric in metrics if metric in ('bbox', 'segm')]
        return [f'{prefix}/{metric}_{item}' for metric in known for item in items]
    if evaluator_type == 'VOCMetric':
        prefix = evaluator.get('prefix') or 'pascal_voc'
        limits = _as_list(evaluator.get('iou_thrs', 0.5))
        named = [f'AP{int(limit * 100):02d}' for limit in limits]
        return [f'{prefix}/{name}' for name in ('mAP', *named)]
    return []


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
