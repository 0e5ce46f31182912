"""Configs and models of a runner: adding hooks, building, finding the distiller."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import is_model_wrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner

from ..distiller.model import Distiller
from ..errors import ConfigError
from ..registry import argument_names, build_mmengine_model, type_name
from .class_names import with_class_names

# Hooks that `prepare_config` adds to the `default_hooks` of a distill config.
DEFAULT_HOOKS: dict[str, dict[str, Any]] = {
    'resume_state': dict(type='ResumeStateHook'),
    'teacher_check': dict(type='TeacherCheckHook', num_images=32),
    'export_student': dict(type='ExportStudentHook'),
    'teacher_cache': dict(type='TeacherCacheHook'),
    'gradient_clip': dict(type='GradientClipHook'),
    'loss_log': dict(type='LossLogHook'),
}


def is_distill(cfg: Config) -> bool:
    """Return whether the config's model is a `Distiller`."""
    return type_name((cfg.get('model') or {}).get('type')) == 'Distiller'


def check_is_distill(cfg: Config) -> None:
    """Raise ConfigError unless the config's model is a `Distiller`."""
    if not is_distill(cfg):
        raise ConfigError(
            'the config is no distill config',
            expected="model=dict(type='Distiller', ...)",
            actual=f'model=dict(type={cfg.model.get("type")!r}, ...)',
        )


def get_distiller(runner: Runner, caller: str) -> Distiller:
    """Return the runner's distiller, without model wrappers.

    Args:
        runner: The runner.
        caller: Name of the hook that needs it, for the message.

    Raises:
        ConfigError: The model is no `Distiller`.
    """
    return as_distiller(runner.model, caller)


def as_distiller(model: Any, caller: str) -> Distiller:
    """Return a distiller without model wrappers.

    Args:
        model: The model of a runner.
        caller: Name of the hook that needs it, for the message.

    Raises:
        ConfigError: The model is no `Distiller`.
    """
    while is_model_wrapper(model):
        model = model.module
    if not isinstance(model, Distiller):
        raise ConfigError(
            f'{caller} works for distillation only',
            expected='a model of type Distiller',
            actual=type(model).__name__,
            fix=f"model=dict(type='Distiller', student=..., ...), or remove {caller}",
        )
    return model


def build_model(cfg: Config) -> Any:
    """Build the config's model as a runner does.

    Args:
        cfg: A config of a training, which is not changed.

    Raises:
        MkdError: The config of the model is not valid.
    """
    # `BatchSyncRandomResize` asks how far a training is, also where no runner counts.
    hub = MessageHub.get_current_instance()
    hub.update_info('iter', hub.get_info('iter', 0))
    # mmdet's models write to the config that they are built from.
    model = deepcopy(with_class_names(cfg).model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return build_mmengine_model(MODELS, model, 'model')


def prepare_config(cfg: Config) -> Config:
    """Return a distill config with the hooks that a distillation needs.

    Adds the hooks of `DEFAULT_HOOKS`, unless the config has them, saves checkpoints
    with `SafeCheckpointHook`, and names the classes that class maps need. None turns a
    hook off: `default_hooks=dict(teacher_check=None)`. Other configs are returned as
    given.

    Args:
        cfg: A config of a training, which is not changed.

    Raises:
        ConfigError: The optimizer's constructor does not support a distiller.
    """
    if not is_distill(cfg):
        return cfg
    _check_hook_types(cfg)
    _check_optimizer_constructor(cfg)
    cfg = deepcopy(with_class_names(cfg))
    if torch.cuda.is_available():
        _enable_async_copy(cfg)
    hooks = dict(cfg.get('default_hooks') or {})
    if hooks.get('checkpoint', {}) is not None:
        checkpoint = dict(hooks.get('checkpoint') or dict(interval=1))
        if type_name(checkpoint.get('type', 'CheckpointHook')) == 'CheckpointHook':
            checkpoint['type'] = 'SafeCheckpointHook'
        hooks['checkpoint'] = checkpoint
    custom = list(cfg.get('custom_hooks') or [])
    named = {hook_type(hook) for hook in [*hooks.values(), *custom]}
    for name, hook in DEFAULT_HOOKS.items():
        if name in hooks and hooks[name] is None:
            del hooks[name]  # mmengine accepts None for its own hooks only
        elif hook['type'] not in named:
            hooks[name] = {**hook, **(hooks.get(name) or {})}
    cfg.default_hooks = hooks
    return cfg


def hook_type(hook: Any) -> str:
    """Return the name of the type of a hook's config; '' for anything else."""
    return type_name(hook.get('type')) if isinstance(hook, dict) else ''


def _enable_async_copy(cfg: Config) -> None:
    """Copy batches to the GPU from pinned memory while it computes."""
    loader = cfg.get('train_dataloader')
    if loader is not None:
        loader.setdefault('pin_memory', True)
    for holder in (cfg.model.student, cfg.model, cfg):
        preprocessor = holder.get('data_preprocessor')
        if not preprocessor:
            continue
        cls = preprocessor.get('type')
        if not isinstance(cls, type):
            scope = cfg.get('default_scope')
            with MODELS.switch_scope_and_registry(scope) as registry:
                cls = registry.get(str(cls))
        if cls is not None and 'non_blocking' in argument_names(cls):
            preprocessor.setdefault('non_blocking', True)


def _check_hook_types(cfg: Config) -> None:
    """Raise ConfigError unless hooks stand in a dict and a list."""
    default, custom = cfg.get('default_hooks'), cfg.get('custom_hooks')
    if not isinstance(default, (dict, type(None))):
        raise ConfigError(
            'default_hooks must be a dict of hooks by name', actual=repr(default)
        )
    if not isinstance(custom, (list, tuple, type(None))):
        raise ConfigError('custom_hooks must be a list of hooks', actual=repr(custom))


def _check_optimizer_constructor(cfg: Config) -> None:
    """Raise ConfigError for mmdet's layer-wise learning rate decay.

    Its constructor finds layers by names that begin with 'backbone.'. In a distiller
    they begin with 'student.backbone.', so all would get the rate of the last layer.
    """
    constructor = type_name((cfg.get('optim_wrapper') or {}).get('constructor'))
    if constructor == 'LearningRateDecayOptimizerConstructor':
        raise ConfigError(
            f'{constructor} does not find the layers of a student in a distiller',
            expected='the default constructor',
            actual=constructor,
            fix="optim_wrapper=dict(constructor='DefaultOptimWrapperConstructor',"
            " paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.5)}))",
        )
