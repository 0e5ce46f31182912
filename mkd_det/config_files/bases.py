"""The files that a config inherits from, in both of mmengine's styles."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.utils import get_installed_path, import_modules_from_strings

from ..errors import ConfigError
from ..registry import name_of_object

# What an import statement leaves among the variables of a config.
_IMPORTED = (ModuleType, FunctionType, BuiltinFunctionType, type, LazyAttr, LazyObject)


def check_cycles(path: str) -> None:
    """Raise ConfigError if a config inherits from itself, directly or not.

    mmengine reads such files until Python's stack is full.

    Args:
        path: The config file.
    """
    _follow(os.path.realpath(path), ())


def _follow(path: str, above: tuple[str, ...]) -> None:
    if path in above:
        cycle = [*above[above.index(path) :], path]
        raise ConfigError(
            'a config inherits from itself',
            actual=' -> '.join(os.path.relpath(file) for file in cycle),
            fix=f'remove one of these bases; {cycle[-2]} names {cycle[-1]}',
        )
    for base in _bases(path):
        _follow(base, (*above, path))


def _bases(path: str) -> list[str]:
    """Return the files that a config names as its bases, as far as they exist."""
    try:
        pure = Config._is_lazy_import(path)
        found = _imported_bases(path) if pure else _named_bases(path)
        return [os.path.realpath(base) for base in found if os.path.isfile(base)]
    except Exception:  # mmengine says what is wrong when it reads the file
        return []


def _named_bases(path: str) -> Iterator[str]:
    """Yield the files in `_base_`."""
    for base in Config._get_base_files(path):
        yield Config._get_cfg_path(base, path)[0]


def _imported_bases(path: str) -> Iterator[str]:
    """Yield the files in `with read_base()`."""
    with open(path, encoding='utf-8') as file:
        names = Config._get_base_modules(ast.parse(file.read()).body)
    for name in names:
        module = name.lstrip('.')
        level = len(name) - len(module)
        parts = module.split('.')
        if level:
            folder = os.path.join(os.path.dirname(path), *['..'] * (level - 1))
        else:
            folder, parts = get_installed_path(parts[0]), parts[1:]
        yield os.path.join(folder, *parts) + '.py'


def complete_pure_python(cfg: Config, path: str) -> None:
    """Do for a pure-Python config what mmengine does for other configs only.

    Removes what the file imports, which mmengine can neither copy nor write if it is a
    module; writes types as names, in a form that can be read again; imports the
    `custom_imports`; refuses placeholders for environment variables, which a base of
    the other style may have and which would stay as they are.

    Args:
        cfg: The config, which is changed.
        path: Its file.

    Raises:
        ConfigError: A placeholder is left.
        ImportError: A module cannot be imported.
    """
    for name, value in list(dict.items(cfg._cfg_dict)):  # builds no LazyObject
        if isinstance(value, _IMPORTED):
            dict.pop(cfg._cfg_dict, name)
    if 'model' in cfg:
        cfg.pop('recipe', None)  # an imported name that `del` could remove as well
    _name_types(cfg._cfg_dict)
    left = next(_placeholders(cfg._cfg_dict, ''), None)
    if left is not None:
        raise ConfigError(
            f'config {path}: a pure-Python config cannot have placeholders',
            expected=f'a value of {left[0]}',
            actual=left[1],
            fix=f"{left[0].partition('.')[0]} = os.environ.get('NAME', 'default'), in"
            ' the config itself; or a config with `_base_`',
        )
    if cfg.get('custom_imports'):
        import_modules_from_strings(**cfg.custom_imports)


def _name_types(value: Any) -> None:
    """Replace classes by names, in place."""
    if isinstance(value, dict):
        for key, item in list(dict.items(value)):
            if key == 'type' and isinstance(item, (LazyAttr, LazyObject)):
                name = name_of_object(item.build())
                # mmengine writes what is left in its own way.
                dict.__setitem__(value, key, name or item)
            else:
                _name_types(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _name_types(item)


def _placeholders(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield key and text of all strings that mmengine would have replaced."""
    if isinstance(value, dict):
        for key, item in dict.items(value):  # imports nothing
            yield from _placeholders(item, f'{where}.{key}' if where else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _placeholders(item, f'{where}[{index}]')
    elif isinstance(value, str) and '{{' in value and '}}' in value:
        yield where, value
