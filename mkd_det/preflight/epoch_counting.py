"""Refuses what counts epochs in a training that counts iterations.

There the epoch stays 0 to the end: what waits for an epoch never comes.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS, LOOPS
from mmengine.runner import IterBasedTrainLoop
from torch import nn

from ..distiller.model import Distiller
from ..errors import ConfigError, is_integer
from .hook_checks import hooks_of


def check_epoch_counting(cfg: Mapping[str, Any], model: nn.Module) -> None:
    """Raise ConfigError for epochs that never come.

    Args:
        cfg: A config of a training.
        model: Its model.

    Raises:
        ConfigError: The training counts iterations; a term, a schedule or a hook counts
            epochs.
    """
    if not counts_iterations(cfg):
        _warn_of_late_steps(cfg, model, 'epochs')
        return
    _warn_of_late_steps(cfg, model, 'iters')
    length = cfg['train_cfg'].get('max_iters')
    for where, key, value, fix in [
        *_terms(model),
        *_schedules(cfg),
        *_hooks(cfg),
    ]:
        raise ConfigError(
            f'{where}: {key}={value} counts epochs, which this training does not',
            expected=f'iterations, of {length}',
            actual=f'train_cfg: {_loop_name(cfg)}',
            fix=fix,
        )
    for hook in hooks_of(cfg):
        cls = _hook_class(hook, cfg)
        saves = isinstance(cls, type) and issubclass(cls, CheckpointHook)
        if saves and hook.get('by_epoch', True):
            print_log(
                'CheckpointHook counts epochs, and this training counts iterations: it'
                ' saves at the end only. Write by_epoch=False, interval=ITERATIONS into'
                ' default_hooks.checkpoint',
                logger='current',
                level=logging.WARNING,
            )


def _warn_of_late_steps(cfg: Mapping[str, Any], model: nn.Module, unit: str) -> None:
    """Log what waits for a step that comes after the end of the training."""
    last = (cfg.get('train_cfg') or {}).get(f'max_{unit}')
    if not is_integer(last):
        return
    key = f'stop_{unit[:-1]}'
    found = list(_terms(model, key))
    if unit == 'epochs':
        found += _hooks(cfg)
    for where, name, value, _ in found:
        if value >= last and not name.startswith('num_last'):
            print_log(
                f'{where}: {name}={value} never comes: the training has {last} {unit}',
                logger='current',
                level=logging.WARNING,
            )


def counts_iterations(cfg: Mapping[str, Any]) -> bool:
    """Return whether a training counts iterations.

    Args:
        cfg: Its config.
    """
    loop = cfg.get('train_cfg') or {}
    kind = loop.get('type')
    if kind is None:
        return not loop.get('by_epoch', True)
    cls = kind if isinstance(kind, type) else LOOPS.get(str(kind))
    return isinstance(cls, type) and issubclass(cls, IterBasedTrainLoop)


# What counts epochs: where it stands, its key and value, and what to write instead.
_Found = tuple[str, str, Any, str]


def _terms(model: nn.Module, key: str = 'stop_epoch') -> Iterator[_Found]:
    if not isinstance(model, Distiller):
        return
    for name, term in model.plan.terms.items():
        step = getattr(term.loss.schedule, key)
        if step is not None:
            fix = f'stop_iter={step} * (images // images a batch)'
            yield f'terms.{name}.schedule', key, step, fix


def _schedules(cfg: Mapping[str, Any]) -> Iterator[_Found]:
    """Yield schedules of the optimizer; their default is to count epochs."""
    found: Any = cfg.get('param_scheduler') or []
    by_optimizer = isinstance(found, Mapping) and 'type' not in found
    for name, part in found.items() if by_optimizer else [('', found)]:
        where = f'param_scheduler{"." + name if name else ""}'
        for number, one in enumerate(part if isinstance(part, list) else [part]):
            if not isinstance(one, Mapping) or one.get('convert_to_iter_based'):
                continue
            # Steps after validations, whatever the loop.
            after_validation = 'ReduceOnPlateau' in str(one.get('type'))
            if one.get('by_epoch', True) and not after_validation:
                fix = 'by_epoch=False, with begin, end and milestones in iterations'
                yield f'{where}[{number}]', 'by_epoch', True, fix


def _hooks(cfg: Mapping[str, Any]) -> Iterator[_Found]:
    """Yield hooks with an argument that names an epoch, also by default."""
    for hook in hooks_of(cfg):
        cls = _hook_class(hook, cfg)
        if not isinstance(cls, type):
            continue
        for key, parameter in inspect.signature(cls).parameters.items():
            value = hook.get(key, parameter.default)
            if 'epoch' in key and is_integer(value) and value > 0:
                fix = f'remove {cls.__name__}, or count epochs (EpochBasedTrainLoop)'
                yield cls.__name__, key, value, fix


def _hook_class(hook: Mapping[str, Any], cfg: Mapping[str, Any]) -> Any:
    kind = hook.get('type')
    with HOOKS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        return kind if isinstance(kind, type) else registry.get(str(kind))


def _loop_name(cfg: Mapping[str, Any]) -> str:
    kind = cfg['train_cfg'].get('type')
    if kind is None:
        return 'by_epoch=False'
    return kind.__name__ if isinstance(kind, type) else str(kind)
