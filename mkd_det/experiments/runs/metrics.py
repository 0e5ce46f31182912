"""Finds out which metric counts for a training."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config

from ...errors import ConfigError, nearest_names
from ...preflight.metric_names import (
    KNOWN_METRICS,
    is_logged,
    metric_cfgs,
    metric_names,
)
from ...registry import type_name


def evaluators_of(cfg: Config) -> list[dict[str, Any]]:
    """Return the metrics of the validation of a config, as they stand there."""
    return [metric for _, metric in metric_cfgs(cfg.get('val_evaluator'))]


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
    evaluator = cfg.get('val_evaluator')
    types = [type_name(metric.get('type')) for metric in evaluators_of(cfg)]
    measured = [
        name for name in metric_names(evaluator) if '/AR' not in name or name == wanted
    ]
    key = wanted or next(iter(measured), '')
    if not types or not key:
        raise ConfigError(
            f'{title}: it is unknown which metric counts',
            expected='a `val_evaluator` of a known type, or `metric`',
            actual=types or None,
            available=KNOWN_METRICS,
            fix="metric='coco/bbox_mAP'",
        )
    if is_logged(evaluator, key) is False:
        raise ConfigError(
            f'{title}: its evaluator does not measure `metric`',
            actual=key,
            available=nearest_names(key, measured),
        )
    return key.rpartition('/')[2], key
