"""The plain config of the student that a distill config trains."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmengine.registry
from mmengine.config import Config, ConfigDict
from mmengine.registry import HOOKS, Registry

from ..config_files.reading import RECIPE_VARIABLES, custom_imports_of, plain_model_cfg
from ..registry import name_of_object, type_name
from .runtime import DEFAULT_HOOKS, hook_type, is_distill

PACKAGE = 'mkd_det'

# Hooks of mkd_det that replace one of mmengine's.
REPLACED_HOOKS = {'SafeCheckpointHook': 'CheckpointHook'}
# Keys that describe one run, or only mkd_det, and not the model.
_DROPPED_KEYS = ('load_from', 'resume', 'work_dir', 'launcher', *RECIPE_VARIABLES)


def student_config(cfg: Config) -> Config:
    """Return the plain config of the student that a distill config trains.

    Stock mmdet can use it without mkd_det: the model is the student, the hooks of
    mkd_det are removed, `CheckpointHook` is mmengine's, and mkd_det is not imported.
    The import stays if a model or dataset of the student is defined in mkd_det.

    Args:
        cfg: A distill config, which is not changed. Other configs only lose hooks of
            mkd_det.
    """
    plain = ConfigDict(_without_classes(cfg.to_dict()))
    if is_distill(cfg):
        plain.model = plain_model_cfg(plain)
    for key in _DROPPED_KEYS:
        plain.pop(key, None)
    plain = ConfigDict({k: v for k, v in plain.items() if not _names_package(v, k)})
    if plain.get('default_scope', '') is None:
        plain.default_scope = 'mmdet'  # the types of bases may be names
    _remove_hooks(plain)
    _remove_scopes(plain)
    _remove_imports(plain)
    return Config(plain)


def _without_classes(value: Any) -> Any:
    """Return a config with the name of every class in it.

    mmengine writes classes as text that cannot be read again.
    """
    if isinstance(value, type):
        return name_of_object(value) or value
    if isinstance(value, dict):
        return {key: _without_classes(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_classes(item) for item in value)
    return value


def _names_package(value: Any, key: str) -> bool:
    """Return whether a variable of a config is a string that names this package.

    Such variables are paths of recipes and teachers. Parts of the config that mmengine
    uses are handled separately.
    """
    if key in ('model', 'default_hooks', 'custom_hooks', 'custom_imports'):
        return False
    return isinstance(value, str) and re.search(rf'\b{PACKAGE}\b', value) is not None


def _remove_hooks(cfg: ConfigDict) -> None:
    """Remove hooks of this package, and hooks that derive from them."""
    hooks = dict(cfg.get('default_hooks') or {})
    for name, hook in list(hooks.items()):
        stock = REPLACED_HOOKS.get(hook_type(hook))
        if stock:
            hooks[name] = {**hook, 'type': stock}
        elif _is_own(hook_type(hook)) or (hook is None and name in DEFAULT_HOOKS):
            del hooks[name]
    if 'default_hooks' in cfg:
        cfg.default_hooks = hooks
    if cfg.get('custom_hooks'):
        cfg.custom_hooks = [h for h in cfg.custom_hooks if not _is_own(hook_type(h))]


def _is_own(name: str) -> bool:
    """Return whether a hook is of this package or derives from one."""
    cls = HOOKS.get(name) if name else None
    return cls is not None and any(_is_defined_here(base) for base in cls.__mro__)


def _remove_scopes(value: Any) -> None:
    """Remove the scope that mmengine writes into parts of a `mkd_det::` base.

    Classes of this package are found without it, and the other classes are mmdet's.
    """
    if isinstance(value, dict):
        if value.get('_scope_') == PACKAGE:
            del value['_scope_']
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            _remove_scopes(item)


def _remove_imports(cfg: ConfigDict) -> None:
    """Remove this package, and modules that import it, from `custom_imports`."""
    imports = cfg.get('custom_imports')
    if not imports or _own_types() & set(_types(cfg)):
        return
    names = [name for name in custom_imports_of(cfg) if not _imports_package(name)]
    if names:
        cfg.custom_imports = {**imports, 'imports': names}
    else:
        del cfg.custom_imports


def _imports_package(name: str) -> bool:
    """Return whether a module is of this package, or its source imports it."""
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


def _own_types() -> set[str]:
    """Return the names of this package's classes in mmengine's registries."""
    known = vars(mmengine.registry).values()
    registries = [registry for registry in known if isinstance(registry, Registry)]
    return {
        name
        for registry in registries
        for name, cls in registry.module_dict.items()
        if _is_defined_here(cls)
    }


def _types(value: Any) -> Iterator[str]:
    """Yield every `type` in a config, at any depth."""
    if isinstance(value, dict):
        if 'type' in value:
            yield type_name(value['type'])
        for item in value.values():
            yield from _types(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _types(item)


def _is_defined_here(cls: Any) -> bool:
    return getattr(cls, '__module__', '').split('.')[0] == PACKAGE
