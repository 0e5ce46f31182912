"""Reads config files; says what they import, and what to write where they are wrong."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from .errors import ConfigError, nearest_names
from .registry import type_name

# Keys of a config that are no arguments of a runner.
_READ_BESIDE = (
    'custom_imports',
    'model_wrapper_cfg',
    'runner_type',
    'tta_model',
    'tta_pipeline',
)


def load_config(
    path: str, options: dict | None = None, source: str = '--cfg-options'
) -> Config:
    """Read a config file, or a packaged one (`mmdet::...`), with overrides.

    Args:
        path: The file.
        options: The overrides.
        source: Where they come from, for messages.

    Raises:
        ConfigError: There is no such file; the nearest names are listed.
    """
    cfg = read_config(path)
    if options:
        _merge(cfg, options, source)
    if not isinstance(cfg.get('model'), dict):
        raise ConfigError(
            f'config {path} has no `model`',
            expected="model=dict(type='Distiller', ...), or any detector's",
            actual=repr(cfg.get('model')),
        )
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return cfg


def read_config(path: str) -> Config:
    """Read a config file, or a packaged one, of whatever it is a config.

    Raises:
        ConfigError: There is no such file, or it cannot be read.
    """
    if '::' in path:
        return _read_packaged(path)
    if not Path(path).is_file():
        folder = Path(path).is_dir()
        raise ConfigError(
            'this is a folder' if folder else 'there is no such config file',
            expected='a config file',
            actual=path if Path(path).is_absolute() else f'{path}, from {Path.cwd()}',
            available=_siblings(Path(path, 'config.py') if folder else Path(path)),
        )
    try:
        return Config.fromfile(path)
    except Exception as error:  # a config is code
        words = str(error.args[0] if isinstance(error, KeyError) else error)
        shown = words.partition(', the current sys')[0]  # the whole of sys.path
        raise ConfigError(
            f'config {path} cannot be read',
            actual=f'{type(error).__name__}: {shown}',
            fix=_way_out(error, words, path),
        ) from error


def _read_packaged(name: str) -> Config:
    package = name.partition('::')[0]
    try:
        # `get_config` would install a package that is not there.
        if find_spec(package) is None:
            raise ModuleNotFoundError(f'package {package!r} is not installed')
        return get_config(name)
    except Exception as error:  # a config is code
        raise ConfigError(
            'there is no such packaged config, or it cannot be read',
            expected='mkd_det::folder/name.py, or mmdet::folder/name.py',
            actual=f'{name} ({type(error).__name__}: {error})',
        ) from error


def plain_model_cfg(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The model of a config, of a distill config its student's; with the preprocessor
    that stands beside it, which a runner hands to a model without one."""
    holders = [cfg['model'], cfg]
    if type_name(cfg['model'].get('type')) == 'Distiller':
        holders.insert(0, cfg['model']['student'])
    model, *others = holders
    model = dict(model)
    for holder in others:
        if holder.get('data_preprocessor') is not None:
            model.setdefault('data_preprocessor', holder['data_preprocessor'])
    return model


def custom_imports_of(cfg: Mapping[str, Any]) -> list[str]:
    """Names of the modules that a config imports."""
    names = (cfg.get('custom_imports') or {}).get('imports') or []
    return [names] if isinstance(names, str) else list(names)


def add_custom_imports(cfg: Config, *names: str) -> None:
    """Let a config import modules, before its own."""
    imports = list(dict.fromkeys([*names, *custom_imports_of(cfg)]))
    cfg.custom_imports = dict(imports=imports, allow_failed_imports=False)


def _way_out(error: Exception, words: str, path: str) -> str:
    """What to write where a config cannot be read."""
    if isinstance(error, ImportError):
        return (
            f'PYTHONPATH=. python tools/train.py {path}: modules of your own are'
            ' looked\nfor in the folders of PYTHONPATH'
        )
    if '.mim' in words:
        return (
            'pip install -e . where setup.py is: it puts the configs into the package'
        )
    if isinstance(error, FileNotFoundError):
        return (
            '`_base_` is relative to the folder of the config that names it; or'
            " _base_ = ['mkd_det::...']"
        )
    if 'Duplicate key' in words:
        return (
            'one base only with these keys; what the other one says of them, in the'
            ' config itself'
        )
    return '--debug shows where'


def _merge(cfg: Config, options: dict, source: str) -> None:
    """Put options into the config.

    As with mmengine, a new key may stand below a known one (an argument that the
    config leaves to its default); a new one at the top would have no effect.

    Raises:
        ConfigError: The key is not known, or a list has no such place.
    """
    known = {*cfg, *inspect.signature(Runner.__init__).parameters, *_READ_BESIDE}
    for key in options:
        first = key.partition('.')[0]
        if first not in known:
            raise ConfigError(
                f'{source}: the config has no {first!r}',
                actual=key,
                available=nearest_names(first, cfg),
            )
        try:
            cfg.merge_from_dict({key: options[key]})
        except (KeyError, TypeError, AttributeError, AssertionError) as error:
            raise ConfigError(
                f'{source}: {key} fits nothing in the config',
                actual=str(error.args[0] if error.args else error).partition('\n')[0],
            ) from error


def _siblings(path: Path) -> list[str]:
    """Files of the same ending in the same folder (or the nearest above)."""
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    names = [str(p) for p in sorted(folder.glob(f'*{path.suffix or ".py"}'))]
    return nearest_names(str(path), names)
