"""Changes of a student's config, for a teacher and for data of the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, inf, lcm
from typing import Any

from ...errors import ConfigError

# A training on fewer images is made longer, up to so many iterations and epochs.
MIN_ITERATIONS, MAX_EPOCHS = 2000, 100
# Keys of schedules that count epochs, or iterations.
_COUNTS = ('begin', 'end', 'T_max', 'step_size', 'milestones', 'periods')
# Arguments of hooks that name an epoch.
_HOOK_EPOCHS = ('switch_epoch', 'num_last_epochs')


def common_divisor(
    student: Mapping[str, Any], teacher: Mapping[str, Any]
) -> int | None:
    """Return the multiple to which images are to be padded so that both models run.

    Args:
        student: Config of the student.
        teacher: Config of the teacher.

    Returns:
        The `pad_size_divisor` that the student needs; None if its own is enough.
    """
    ours, theirs = _divisor(student), _divisor(teacher)
    return lcm(ours, theirs) if ours % theirs else None


def _divisor(cfg: Mapping[str, Any]) -> int:
    """Return `pad_size_divisor` of a config, or of what its preprocessor wraps."""
    given = cfg['model'].get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    given = given.get('data_preprocessor') or given
    return given.get('pad_size_divisor') or 1


def with_classes(model: Any, count: int) -> Any:
    """Return what to change in a model's config so that its heads have `count` classes.

    Args:
        model: The config, or a part of it.
        count: Number of classes.

    Returns:
        The changed parts alone; lists are whole. Empty where nothing is to change.
    """
    if isinstance(model, Mapping):
        changed = {
            key: count if key == 'num_classes' else with_classes(value, count)
            for key, value in model.items()
            if key != 'num_classes' or (isinstance(value, int) and value != count)
        }
        return {key: value for key, value in changed.items() if value or value == count}
    if isinstance(model, Sequence) and not isinstance(model, str):
        parts = [with_classes(one, count) for one in model]
        if any(parts):
            return [_merge(one, part) for one, part in zip(model, parts)]
    return {}


def _merge(value: Any, change: Any) -> Any:
    if not isinstance(change, Mapping):
        return change
    return {
        **value,
        **{key: _merge(value.get(key), one) for key, one in change.items()},
    }


def scaled_schedule(
    cfg: Mapping[str, Any], images: int | None, epochs: int | None = None
) -> dict[str, Any]:
    """Return what to change in a config so that a training fits the number of images.

    Args:
        cfg: The student's config.
        images: Number of training images; None for those of the config, where `epochs`
            is given.
        epochs: Length of the training; from the number of images if None.

    Returns:
        `train_cfg`, `param_scheduler` and `custom_hooks`, as far as they change; empty
        for a training that counts iterations.

    Raises:
        ConfigError: `epochs` is given, and the training counts iterations.
    """
    before = (cfg.get('train_cfg') or {}).get('max_epochs')
    if not isinstance(before, int) or before < 1:
        if epochs is not None:
            raise ConfigError(
                '--epochs: the training of the student counts iterations',
                actual=repr(cfg.get('train_cfg')),
                fix='without --epochs; or train_cfg=dict(max_epochs=...) in the config',
            )
        return {}
    steps = images and ceil(images / cfg['train_dataloader'].get('batch_size', 1))
    after = epochs or before
    if steps and not epochs:
        after = max(before, min(ceil(MIN_ITERATIONS / steps), MAX_EPOCHS))
    factor = after / before
    parts: dict[str, Any] = {}
    if after != before:
        interval = max(1, round(after / 10))
        parts['train_cfg'] = dict(max_epochs=after, val_interval=interval)
        if cfg['train_cfg'].get('dynamic_intervals'):
            parts['train_cfg']['dynamic_intervals'] = [
                (max(1, round(start * factor)), step)
                for start, step in cfg['train_cfg']['dynamic_intervals']
            ]
    schedulers = cfg.get('param_scheduler') or []
    many = [schedulers] if isinstance(schedulers, Mapping) else schedulers
    iterations = after * steps if steps else None
    scaled = [_scale_scheduler(one, factor, iterations) for one in many]
    # The last epochs of a long training may be none of a short one, as of YOLOX.
    scaled = [one for one in scaled if one.get('begin', 0) < one.get('end', inf)]
    if scaled != [dict(one) for one in many]:
        parts['param_scheduler'] = scaled
    hooks = cfg.get('custom_hooks') or []
    moved = [_scale_hook(hook, factor) for hook in hooks]
    if moved != [dict(hook) for hook in hooks]:
        parts['custom_hooks'] = moved
    return parts


def _scale_scheduler(
    scheduler: Mapping[str, Any], factor: float, iterations: int | None
) -> dict[str, Any]:
    """Scale what counts epochs; a warm-up takes a tenth of the training at most."""
    scaled = dict(scheduler)
    if scheduler.get('by_epoch', True):
        for key in _COUNTS:
            value = scaled.get(key)
            if isinstance(value, (list, tuple)):
                scaled[key] = [max(1, round(one * factor)) for one in value]
            elif isinstance(value, int) and not isinstance(value, bool) and value:
                scaled[key] = max(1, round(value * factor))
    elif iterations and isinstance(scaled.get('end'), int):
        scaled['end'] = max(1, min(scaled['end'], iterations // 10))
    return scaled


def _scale_hook(hook: Mapping[str, Any], factor: float) -> dict[str, Any]:
    scaled = dict(hook)
    for key in _HOOK_EPOCHS:
        if isinstance(scaled.get(key), int):
            scaled[key] = max(1, round(scaled[key] * factor))
    return scaled
