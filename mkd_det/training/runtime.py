"""What a distill config means for the runner, and for the student alone."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import mmengine.registry
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, MODELS, Registry
from mmengine.runner import Runner
from torch import nn

from ..configs import custom_imports_of, plain_model_cfg
from ..distiller.model import Distiller
from ..errors import ConfigError
from ..registry import argument_names, build_mmengine_model, type_name

PACKAGE = 'mkd_det'

# What `prepare_config` adds to the hooks of a distill config, by its name there.
DEFAULT_HOOKS: dict[str, dict[str, Any]] = {
    'resume_state': dict(type='ResumeStateHook'),
    'teacher_check': dict(type='TeacherCheckHook', num_images=32),
    'export_student': dict(type='ExportStudentHook'),
    'teacher_cache': dict(type='TeacherCacheHook'),
}
# Our hooks that stand in for one of mmengine's.
STAND_INS = {'SafeCheckpointHook': 'CheckpointHook'}
# What says where and how a run runs, and nothing about the model.
_OF_THE_RUN = ('load_from', 'resume', 'work_dir', 'launcher')


def is_distill(cfg: Config) -> bool:
    """Whether the config's model is a `Distiller`."""
    return type_name((cfg.get('model') or {}).get('type')) == 'Distiller'


def check_is_distill(cfg: Config) -> None:
    """Raise ConfigError unless the config's model is a `Distiller`."""
    if not is_distill(cfg):
        raise ConfigError(
            'this is no distill config',
            expected="model=dict(type='Distiller', ...)",
            actual=f'model=dict(type={cfg.model.get("type")!r}, ...)',
        )


def get_distiller(runner: Runner, asker: str) -> Distiller:
    """The runner's model, out of its wrappers.

    Args:
        runner: The runner.
        asker: Who needs a distiller, for the message.

    Raises:
        ConfigError: The model is no `Distiller`.
    """
    model = runner.model
    while is_model_wrapper(model):
        model = model.module
    if not isinstance(model, Distiller):
        raise ConfigError(
            f'{asker} works in distillation only',
            expected='a model of type Distiller',
            actual=type(model).__name__,
            fix=f"model=dict(type='Distiller', student=..., ...), or no {asker}",
        )
    return model


def build_model(cfg: Config) -> Any:
    """Build the config's model as a runner would.

    Raises:
        MkdError: The distill config does not fit together.
    """
    # mmdet's models write into the config that they are built from.
    model = deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return build_mmengine_model(MODELS, model, 'model')


def class_count(model: nn.Module) -> int | None:
    """How many classes a detector or classifier tells apart; None where it does not
    say, or where classes are words that it reads.
    """
    if hasattr(model, 'language_model'):
        return None
    head: Any = model
    for name in ('roi_head', 'bbox_head'):
        head = getattr(head, name, head)
    if isinstance(head, nn.ModuleList):
        head = head[-1]
    return getattr(head, 'num_classes', None)


def prepare_config(cfg: Config) -> Config:
    """The config that a distillation runs with; other configs come back as given.

    Adds `ResumeStateHook`, `TeacherCheckHook`, `ExportStudentHook` and
    `TeacherCacheHook`, unless the config names them, and saves checkpoints with
    `SafeCheckpointHook`. A config switches a hook off with None:
    `default_hooks=dict(teacher_check=None)`.

    Args:
        cfg: Any config for a runner. It is not changed.

    Raises:
        ConfigError: The optimizer's constructor would not know the student's layers.
    """
    if not is_distill(cfg):
        return cfg
    _refuse_layer_decay(cfg)
    cfg = Config(cfg.to_dict(), filename=cfg.filename)
    if torch.cuda.is_available():
        _copy_while_computing(cfg)
    hooks = dict(cfg.get('default_hooks') or {})
    if hooks.get('checkpoint', {}) is not None:
        checkpoint = dict(hooks.get('checkpoint') or dict(interval=1))
        if type_name(checkpoint.get('type', 'CheckpointHook')) == 'CheckpointHook':
            checkpoint['type'] = 'SafeCheckpointHook'
        hooks['checkpoint'] = checkpoint
    custom = list(cfg.get('custom_hooks') or [])
    named = {_hook_name(hook) for hook in [*hooks.values(), *custom]}
    for name, hook in DEFAULT_HOOKS.items():
        if name in hooks and hooks[name] is None:
            del hooks[name]  # mmengine knows None for its own hooks only
        elif hook['type'] not in named:
            hooks[name] = {**hook, **(hooks.get(name) or {})}
    cfg.default_hooks = hooks
    return cfg


def _copy_while_computing(cfg: Config) -> None:
    """Batches go to the GPU from pinned memory, while it computes."""
    loader = cfg.get('train_dataloader')
    if loader is not None:
        loader.setdefault('pin_memory', True)
    for holder in (cfg.model.student, cfg.model, cfg):
        preprocessor = holder.get('data_preprocessor')
        if not preprocessor:
            continue
        with MODELS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
            cls = registry.get(type_name(preprocessor.get('type')))
        if cls is not None and 'non_blocking' in argument_names(cls):
            preprocessor.setdefault('non_blocking', True)


def _refuse_layer_decay(cfg: Config) -> None:
    """Mmdet's constructor for it tells layers by names that begin with 'backbone.';
    ours begin with 'student.', and every layer would get the last one's rate.
    """
    constructor = type_name((cfg.get('optim_wrapper') or {}).get('constructor'))
    if constructor == 'LearningRateDecayOptimizerConstructor':
        raise ConfigError(
            f'{constructor} does not know the layers of a student that is distilled',
            expected='the default constructor',
            actual=constructor,
            fix="optim_wrapper=dict(constructor='DefaultOptimWrapperConstructor',"
            " paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.5)}))",
        )


def student_config(cfg: Config) -> Config:
    """The plain config of the student that a distill config trains.

    Stock mmdet reads it, with no mkd_det installed: the model is the student,
    our hooks are gone, `CheckpointHook` is mmengine's again, and nothing of
    ours is imported. Only what the student itself is made of stays (a model or
    data set that lives in this package), and then the import stays too.

    Args:
        cfg: A distill config. It is not changed. Other configs come back
            without our hooks.
    """
    plain = ConfigDict(cfg.to_dict())
    if is_distill(cfg):
        plain.model = plain_model_cfg(plain)
    for key in _OF_THE_RUN:
        plain.pop(key, None)
    plain = ConfigDict({k: v for k, v in plain.items() if not _mentions_us(v, k)})
    _plain_hooks(plain)
    _plain_scopes(plain)
    _plain_imports(plain)
    return Config(plain)


def _mentions_us(value: Any, key: str) -> bool:
    """Whether a variable that a config happens to hold speaks of this package
    (paths of recipes and teachers). Parts with a meaning are dealt with apart.
    """
    if key in ('model', 'default_hooks', 'custom_hooks', 'custom_imports'):
        return False
    return isinstance(value, str) and re.search(rf'\b{PACKAGE}\b', value) is not None


# -- hooks -------------------------------------------------------------------


def _plain_hooks(cfg: ConfigDict) -> None:
    """Take our hooks out of `cfg`, and users' hooks that build on ours."""
    hooks = dict(cfg.get('default_hooks') or {})
    for name, hook in list(hooks.items()):
        stand_in = STAND_INS.get(_hook_name(hook))
        if stand_in:
            hooks[name] = {**hook, 'type': stand_in}
        elif _is_ours(_hook_name(hook)) or (hook is None and name in DEFAULT_HOOKS):
            del hooks[name]
    if 'default_hooks' in cfg:
        cfg.default_hooks = hooks
    if cfg.get('custom_hooks'):
        cfg.custom_hooks = [h for h in cfg.custom_hooks if not _is_ours(_hook_name(h))]


def _hook_name(hook: Any) -> str:
    return type_name(hook.get('type')) if isinstance(hook, dict) else ''


def _is_ours(name: str) -> bool:
    """Whether the hook of that name is, or builds on, one of this package."""
    cls = HOOKS.get(name) if name else None
    return cls is not None and any(_lives_here(base) for base in cls.__mro__)


# -- scopes --------------------------------------------------------------------


def _plain_scopes(value: Any) -> None:
    """Take our scope off what a config has from a `mkd_det::` base. What is ours is
    found without it, and the rest is mmdet's.
    """
    if isinstance(value, dict):
        if value.get('_scope_') == PACKAGE:
            del value['_scope_']
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            _plain_scopes(item)


# -- imports -----------------------------------------------------------------


def _plain_imports(cfg: ConfigDict) -> None:
    """Take this package, and modules that import it, out of `custom_imports`."""
    imports = cfg.get('custom_imports')
    if not imports or _our_types() & set(_types(cfg)):
        return
    names = [name for name in custom_imports_of(cfg) if not _imports_us(name)]
    if names:
        cfg.custom_imports = {**imports, 'imports': names}
    else:
        del cfg.custom_imports


def _imports_us(name: str) -> bool:
    """Whether a module is of this package, or its source names it."""
    if name.split('.')[0] == PACKAGE:
        return True
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        return False
    files = [Path(spec.origin)]
    if spec.submodule_search_locations:
        folders = spec.submodule_search_locations
        files = [file for folder in folders for file in Path(folder).rglob('*.py')]
    pattern = re.compile(rf'^\s*(from|import)\s+{PACKAGE}\b', re.MULTILINE)
    return any(pattern.search(file.read_text(errors='ignore')) for file in files)


def _our_types() -> set[str]:
    """Names under which this package has registered classes with mmengine."""
    known = vars(mmengine.registry).values()
    registries = [registry for registry in known if isinstance(registry, Registry)]
    return {
        name
        for registry in registries
        for name, cls in registry.module_dict.items()
        if _lives_here(cls)
    }


def _types(value: Any) -> Iterator[str]:
    """Every `type` in a config, however deep."""
    if isinstance(value, dict):
        if 'type' in value:
            yield type_name(value['type'])
        for item in value.values():
            yield from _types(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _types(item)


def _lives_here(cls: Any) -> bool:
    return getattr(cls, '__module__', '').split('.')[0] == PACKAGE
