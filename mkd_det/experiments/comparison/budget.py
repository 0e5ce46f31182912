"""Gives a training another length, with its schedules in proportion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config

from ...errors import ConfigError, is_integer
from ...registry import type_name
from ..runs.training_configs import training_budget
from .options import ComparisonOptions

# Keys that count epochs or iterations: of schedulers, of the schedules of terms, and
# of hooks that switch pipelines or start averages.
_SCHEDULER_KEYS = (
    'begin',
    'end',
    'T_max',
    'step_size',
    'total_steps',
    'milestones',
    'periods',
)
_TERM_EPOCH_KEYS = ('stop_epoch',)
_TERM_ITERATION_KEYS = ('warmup_iters', 'decay_iters', 'stop_iter')
_HOOK_EPOCH_KEYS = ('switch_epoch', 'num_last_epochs', 'begin_epoch')
_WARM_UPS = ('LinearLR', 'ConstantLR')
# mmengine's `end` of a scheduler without end has nine zeros.
ENDLESS = 10**8
# Smallest number of points of a learning curve.
CURVE_POINTS = 4


def set_budget(cfg: Config, options: ComparisonOptions) -> None:
    """Set the length of a training, and scale its schedules with it.

    Everything that is counted in the unit of the budget (epochs or iterations) is
    scaled: ends and milestones of the learning rate, `stop_epoch` of terms. A warm-up
    in iterations keeps its length under a budget in epochs. Validations become frequent
    enough for a learning curve, unless the options set their interval.

    Args:
        cfg: Config of the training; it is changed.
        options: Settings of the comparison.

    Raises:
        ConfigError: The training is counted in the other unit.
    """
    steps, by_epoch = training_budget(cfg, 'the training')
    wanted, other = options.epochs, options.iters
    if not by_epoch:
        wanted, other = other, wanted
    if other is not None:
        right, wrong = ('epochs', 'iters') if by_epoch else ('iters', 'epochs')
        raise ConfigError(
            f'--{wrong}: this training is counted in {right}',
            actual=f'max_{right}={steps}',
            fix=f'--{right}',
        )
    if wanted is not None:
        _scale_training(cfg, by_epoch, wanted / steps)
        cfg.train_cfg['max_epochs' if by_epoch else 'max_iters'] = wanted
        steps = wanted
    if 'train_cfg.val_interval' not in options.options:
        often = max(steps // CURVE_POINTS, 1)
        own = cfg.train_cfg.get('val_interval', 1 if by_epoch else 1000)
        cfg.train_cfg.val_interval = min(own, often)


def schedulers_of(cfg: Config) -> list[Any]:
    """Return the schedulers of the learning rate, as they stand in the config."""
    found = cfg.get('param_scheduler') or []
    return [found] if isinstance(found, Mapping) else list(found)


def _scale_training(cfg: Config, by_epoch: bool, factor: float) -> None:
    if 'val_begin' in cfg.train_cfg:
        _scale(cfg.train_cfg, ('val_begin',), factor)
    for scheduler in schedulers_of(cfg):
        if scheduler.get('by_epoch', True) == by_epoch:
            length = scheduler.get('end', 0) - scheduler.get('begin', 0)
            full_cosine = scheduler.get('T_max') == length
            _scale(scheduler, _SCHEDULER_KEYS, factor)
            if full_cosine:
                scheduler['T_max'] = scheduler['end'] - scheduler.get('begin', 0)
    for hook in cfg.get('custom_hooks') or ():
        if by_epoch:
            _scale(hook, _HOOK_EPOCH_KEYS, factor)
    keys = _TERM_EPOCH_KEYS if by_epoch else _TERM_ITERATION_KEYS
    for term in (cfg.model.get('terms') or {}).values():
        if isinstance(term, Mapping) and term.get('schedule'):
            _scale(term['schedule'], keys, factor)


def _scale(part: Any, keys: Sequence[str], factor: float) -> None:
    """Scale numbers of epochs or iterations; lengths stay at least 1."""
    for key in keys:
        value = part.get(key)
        if is_integer(value) and 0 < value < ENDLESS:
            part[key] = max(_rounded(value * factor), 0 if key == 'begin' else 1)
        elif isinstance(value, (list, tuple)):
            part[key] = [max(_rounded(v * factor), 1) for v in value]
    if is_integer(part.get('end')) and part['end'] <= part.get('begin', 0):
        part['begin'] = part['end'] - 1
    warms_up = type_name(part.get('type')) in _WARM_UPS
    if warms_up and not part.get('convert_to_iter_based'):
        # mmengine does not restore the rate after a warm-up of a single step.
        shortest = part.get('begin', 0) + 2
        part['end'] = max(part.get('end', ENDLESS), shortest)


def _rounded(value: float) -> int:
    return math.floor(value + 0.5)
