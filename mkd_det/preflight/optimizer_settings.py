"""Checks of the optimizer and its schedules.

mmengine ignores some settings, and finds other mistakes in the first iterations.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..errors import ConfigError, as_config_error, is_number, nearest_names
from ..io.quiet import suppress_info_logs
from .runner_parts import check_monitor

# What mmengine's DefaultOptimWrapperConstructor reads of `paramwise_cfg`.
_PARAMWISE = (
    'custom_keys',
    'bias_lr_mult',
    'bias_decay_mult',
    'norm_decay_mult',
    'flat_decay_mult',
    'dwconv_decay_mult',
    'dcn_offset_lr_mult',
    'bypass_duplicate',
)
# Schedules are tried for so many steps.
_STEPS = 3


def check_wrapper_settings(given: Mapping[str, Any]) -> None:
    """Raise ConfigError for settings that mmengine ignores, or rounds.

    Args:
        given: Config of the optimizer wrapper.
    """
    counts = given.get('accumulative_counts', 1)
    if isinstance(counts, float):
        raise ConfigError(
            'optim_wrapper: accumulative_counts must be a whole number',
            actual=counts,
            fix=f'accumulative_counts={max(1, round(counts))}',
        )
    parts = given.get('paramwise_cfg')
    default = given.get('constructor') in (None, 'DefaultOptimWrapperConstructor')
    for key in parts if default and isinstance(parts, Mapping) else ():
        if key not in (*_PARAMWISE, '_scope_'):
            raise ConfigError(
                f'optim_wrapper.paramwise_cfg: unknown key {key!r}',
                actual=key,
                available=nearest_names(key, _PARAMWISE),
            )


def check_clip(wrapper: OptimWrapper) -> None:
    """Raise ConfigError for a `clip_grad` that fails, or turns gradients around.

    Args:
        wrapper: The optimizer, built.
    """
    clip = getattr(wrapper, 'clip_grad_kwargs', None)  # not of several optimizers
    if clip:
        for name in ('max_norm', 'clip_value'):
            value = clip.get(name)
            # A negative limit would train uphill. Written so that NaN is invalid.
            if isinstance(value, (int, float)) and not value > 0:
                raise ConfigError(
                    f'optim_wrapper.clip_grad: {name} must be above 0',
                    actual=value,
                    fix=f'clip_grad=dict({name}=35), or clip_grad=None',
                )
        parameter = nn.Parameter(torch.zeros(1))
        parameter.grad = torch.ones(1)
        with as_config_error('optim_wrapper.clip_grad'):
            wrapper.clip_func([parameter], **clip)


def check_rates(wrapper: OptimWrapper) -> None:
    """Raise ConfigError for settings of the optimizer that are not finite.

    Args:
        wrapper: The optimizer, built.
    """
    groups = getattr(getattr(wrapper, 'optimizer', None), 'param_groups', ())
    for group in groups:
        for name, value in group.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(
                    f'optim_wrapper: {name} must be a finite number',
                    actual=value,
                    fix='optimizer=dict(lr=0.01, ...)',
                )


def check_schedules(
    cfg: Config, wrapper: OptimWrapper, loaders: Mapping[str, DataLoader]
) -> None:
    """Raise ConfigError for schedules that cannot be built, or fail at once.

    Args:
        cfg: Config of a training.
        wrapper: Its optimizers, which this changes.
        loaders: Its dataloaders by split.
    """
    runner = object.__new__(Runner)
    runner.logger = MMLogger.get_current_instance()
    runner.optim_wrapper = wrapper
    runner._train_loop = _Length(cfg.train_cfg, loaders['train'])
    given = cfg.get('param_scheduler')
    if given is None:
        return
    _check_numbers(given)
    with suppress_info_logs(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with as_config_error('param_scheduler'):
            runner._check_scheduler_cfg(given)
            built = runner.build_param_scheduler(deepcopy(given))
            by_optimizer = built.values() if isinstance(built, dict) else [built]
            for scheduler in (one for part in by_optimizer for one in part):
                monitor = getattr(scheduler, 'monitor', None)
                if isinstance(monitor, str):
                    check_monitor(cfg, monitor, 'param_scheduler: monitor')
                    continue  # it steps after validations
                for _ in range(_STEPS):
                    scheduler.step()


class _Length(BaseLoop):
    """How long a training takes, for schedules that end with it."""

    def __init__(self, loop: Mapping[str, Any], loader: DataLoader) -> None:
        super().__init__(None, loader)
        epochs, iterations = loop.get('max_epochs'), loop.get('max_iters')
        self.max_epochs = 1 if epochs is None else int(epochs)
        counted = self.max_epochs * len(loader)
        self.max_iters = counted if iterations is None else int(iterations)

    def run(self) -> None:
        """Do nothing."""


def _check_numbers(schedules: Any, where: str = 'param_scheduler') -> None:
    """Raise ConfigError for texts where a schedule counts: they would never match."""
    if isinstance(schedules, Mapping):
        for key, value in schedules.items():
            if key not in ('type', 'monitor', 'rule', '_scope_', 'param_name'):
                _check_numbers(value, f'{where}.{key}')
    elif isinstance(schedules, (list, tuple)):
        for index, value in enumerate(schedules):
            _check_numbers(value, f'{where}[{index}]')
    elif isinstance(schedules, str) and _is_number_text(schedules):
        raise ConfigError(
            f'{where} must be a number', actual=repr(schedules), fix=schedules
        )


def _is_number_text(text: str) -> bool:
    try:
        return is_number(float(text))
    except ValueError:
        return False
