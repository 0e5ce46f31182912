"""Builds what a runner builds: hooks, schedules, log processor, visualizer.

mmengine builds them after it has created the work dir, or in the first iterations.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from operator import attrgetter
from typing import Any

from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, EMAHook, Hook
from mmengine.registry import HOOKS, MODELS, VISUALIZERS
from mmengine.runner import Runner
from mmengine.runner.priority import get_priority
from torch import nn

from ..errors import (
    ConfigError,
    as_config_error,
    is_integer,
    nearest_names,
)
from ..registry import type_name
from .metric_names import is_logged, metric_names

# Modules that mmengine's backends import when the training starts; one of each
# tuple is enough. The first is what to install.
_BACKEND_MODULES = {
    'AimVisBackend': ('aim',),
    'ClearMLVisBackend': ('clearml',),
    'DVCLiveVisBackend': ('dvclive',),
    'MLflowVisBackend': ('mlflow',),
    'NeptuneVisBackend': ('neptune',),
    'TensorboardVisBackend': ('tensorboard', 'tensorboardX'),
    'WandbVisBackend': ('wandb',),
}


def check_runner_parts(cfg: Config) -> None:
    """Raise ConfigError for hooks and outputs that a runner cannot build.

    Args:
        cfg: Config of a training or a test.

    Raises:
        MkdError: A part cannot be built, or waits for a metric that is not measured.
    """
    with _visualizer(cfg.get('visualizer')):  # some hooks look for it
        for where, hook in _hooks(cfg):
            _check_hook(cfg, where, hook)
    _check_log_processor(cfg.get('log_processor') or {})
    for split in ('val', 'test'):
        _check_metric_names(cfg.get(f'{split}_evaluator'), f'{split}_evaluator')


def check_submodules(cfg: Config, model: nn.Module) -> None:
    """Raise ConfigError for modules that the model does not have.

    Args:
        cfg: Config of a training.
        model: Its model.
    """
    for key in ('activation_checkpointing', 'efficient_conv_bn_eval'):
        names = cfg.get(key)
        for name in [names] if isinstance(names, str) else names or []:
            try:
                attrgetter(name)(model)
            except (AttributeError, TypeError):
                known = dict(getattr(model, 'student', model).named_modules())
                raise ConfigError(
                    f'{key}: the model has no module {name!r}',
                    actual=name,
                    available=nearest_names(str(name), known),
                ) from None


def _hooks(cfg: Config) -> Iterator[tuple[str, Any]]:
    """Yield where a hook stands, and the hook."""
    # These mmengine adds where they are not given, and removes for None.
    known = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler')
    for name, hook in (cfg.get('default_hooks') or {}).items():
        if hook is not None:
            yield f'default_hooks.{name}', hook
        elif name not in (*known, 'checkpoint'):
            raise ConfigError(
                f'default_hooks.{name}: only hooks that are added can be None',
                actual=name,
                available=nearest_names(name, (*known, 'checkpoint')),
            )
    for index, hook in enumerate(cfg.get('custom_hooks') or []):
        yield f'custom_hooks[{index}]', hook


def _check_hook(cfg: Config, where: str, given: Any) -> None:
    """Build a hook, and check what it finds out later."""
    if isinstance(given, Hook):
        return
    if not isinstance(given, dict) or given.get('type') is None:
        raise ConfigError(
            f'{where} must be a dict with type',
            actual=repr(given),
            fix="dict(type='LoggerHook', interval=10)",
        )
    given = deepcopy(given)
    priority = given.pop('priority', 'NORMAL')
    with as_config_error(f'{where}.priority'):
        get_priority(priority)
    with as_config_error(where), HOOKS.switch_scope_and_registry(None) as registry:
        cls = given['type']
        cls = cls if isinstance(cls, type) else registry.get(str(cls))
    if isinstance(cls, type):
        _check_annotated_numbers(cls, given, where)
        _check_monitors(cfg, cls, given, where)
        _check_file_name(cls, given, where)
        for key in ('backend_args', 'file_client_args'):
            if not isinstance(given.get(key) or {}, Mapping):
                raise ConfigError(
                    f'{where}: {key} must be a dict', actual=repr(given[key])
                )
    with as_config_error(where):
        hook = HOOKS.build(given)
    if isinstance(hook, EMAHook):
        with as_config_error(f'{where}: its average'):
            MODELS.build(deepcopy(hook.ema_cfg), default_args=dict(model=nn.ReLU()))


def _check_monitors(cfg: Config, cls: type, given: Mapping, where: str) -> None:
    """Raise ConfigError for a hook that waits for what is not measured."""
    if issubclass(cls, CheckpointHook):
        best = given.get('save_best')
        if not _is_names(best):
            raise ConfigError(
                f'{where}: save_best must be the name of a metric, or several',
                actual=repr(best),
                fix="save_best='auto'",
            )
        for name in [best] if isinstance(best, str) else best or ():
            if name != 'auto':
                check_monitor(cfg, name, f'{where}: save_best')
    if issubclass(cls, EarlyStoppingHook) and isinstance(given.get('monitor'), str):
        check_monitor(cfg, given['monitor'], f'{where}: monitor')


def _is_names(given: Any) -> bool:
    names = given if isinstance(given, (list, tuple)) else [given or 'auto']
    return all(isinstance(name, str) for name in names)


def _check_file_name(cls: type, given: Mapping, where: str) -> None:
    """Raise ConfigError for a name that would replace another file.

    Without a number, each checkpoint replaces the last; with a folder, it lies outside
    of the work dir, and is not found again.
    """
    name = given.get('filename_tmpl')
    if name is None or not issubclass(cls, CheckpointHook):
        return
    with as_config_error(f'{where}: filename_tmpl'):
        made = [name.format(number) for number in (1, 2)]
        if made[0] == made[1] or os.path.basename(made[0]) != made[0]:
            raise ConfigError(
                f'{where}: filename_tmpl must be a file name with one number',
                actual=repr(name),
                fix="filename_tmpl='epoch_{}.pth'; out_dir='...' names the folder",
            )


def _check_log_processor(given: Mapping[str, Any]) -> None:
    """Raise ConfigError for a log processor that fails in the first step."""
    with as_config_error('log_processor'):
        # No method of the runner needs more of it than this.
        runner = object.__new__(Runner)
        runner.build_log_processor(deepcopy(dict(given)))
    for key, low in (('window_size', 1), ('num_digits', 0)):
        value = given.get(key, low)
        if not is_integer(value) or value < low:
            raise ConfigError(
                f'log_processor: {key} must be a whole number, at least {low}',
                actual=repr(value),
                fix=f'log_processor=dict({key}={max(low, 4)})',
            )


def _check_annotated_numbers(cls: type, given: Mapping, where: str) -> None:
    """Raise ConfigError for texts where a class takes numbers.

    mmengine's hooks take them, and fail when they count; of a fraction of an epoch
    they make a number of epochs that nobody meant.
    """
    for name, parameter in inspect.signature(cls).parameters.items():
        kind = getattr(parameter.annotation, '__name__', parameter.annotation)
        value = given.get(name)
        fraction = isinstance(value, float) and not value.is_integer()
        if (
            kind in ('int', 'float')
            and isinstance(value, (str, dict, list))
            or (kind == 'int' and fraction)
        ):
            number = 'whole number' if kind == 'int' else 'number'
            raise ConfigError(f'{where}: {name} must be a {number}', actual=repr(value))


def check_monitor(cfg: Config, name: str, where: str) -> None:
    """Raise ConfigError for a metric that the validation does not measure."""
    evaluator = cfg.get('val_evaluator')
    loop = type_name((cfg.get('val_cfg') or {}).get('type', 'ValLoop'))
    if loop != 'ValLoop' or evaluator is None:
        return  # other loops may give metrics other names
    if is_logged(evaluator, name) is False:
        raise ConfigError(
            f'{where}: the validation does not measure {name!r}',
            actual=name,
            available=nearest_names(name, metric_names(evaluator), limit=12),
        )


def _check_metric_names(evaluator: Any, where: str) -> None:
    """Raise ConfigError if two metrics have one name: mmengine stops after an epoch."""
    names = metric_names(evaluator)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(
            f'{where}: two metrics are called {twice[0]}',
            fix="prefix='second' in one of them",
        )


@contextmanager
def _visualizer(given: Mapping[str, Any] | None) -> Iterator[None]:
    """Build a visualizer, which exists inside the context only.

    Raises:
        ConfigError: It cannot be built, or a package is missing that it imports later.
    """
    called = (given or {}).get('name', 'visualizer')
    if not isinstance(called, str):
        raise ConfigError('visualizer: name must be a string', actual=repr(called))
    # mmengine keeps visualizers by name; the runner's own must be a new one.
    name = 'mkd_det: check'
    given = {'type': 'Visualizer', 'save_dir': '.', **(given or {}), 'name': name}
    for backend in _backends(given):
        kind = type_name(backend.get('type'))
        modules = _BACKEND_MODULES.get(kind, ())
        if modules and not any(map(importlib.util.find_spec, modules)):
            raise ConfigError(
                f'visualizer: {kind} needs a package that is not installed',
                expected=' or '.join(modules),
                fix=f'pip install {modules[0]}',
            )
    built: Any = None
    with as_config_error('visualizer'):
        built = VISUALIZERS.build(deepcopy(given))
    try:
        yield
    finally:
        for cls in type(built).__mro__:
            vars(cls).get('_instance_dict', {}).pop(name, None)


def _backends(visualizer: Mapping[str, Any]) -> Sequence[Any]:
    given = visualizer.get('vis_backends') or []
    given = [given] if isinstance(given, Mapping) else given
    if not isinstance(given, (list, tuple)) or not all(
        isinstance(backend, Mapping) for backend in given
    ):
        raise ConfigError(
            'visualizer: vis_backends must be a list of dicts',
            actual=repr(given),
            fix="vis_backends=[dict(type='LocalVisBackend')]",
        )
    return given
