"""Reading config files, and the imports and models in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings

from ..errors import ConfigError, nearest_names
from ..registry import type_name
from .bases import check_cycles, complete_pure_python
from .overrides import apply_overrides
from .paths import bases_in_both_places, find_file, find_named_files

# Variables of recipes that a config inherits and no training reads.
RECIPE_VARIABLES = ('needs', 'rank')


def load_config(
    path: str, options: dict | None = None, source: str = '--cfg-options'
) -> Config:
    """Read a config of a training, apply overrides and set the default scope.

    Args:
        path: A file, or a packaged config such as `mmdet::gfl/gfl_r50_fpn_1x_coco.py`.
        options: Overrides by dotted key.
        source: The option that gave them, for messages.

    Raises:
        ConfigError: The config cannot be read or has no `model`, or an override does
            not fit it.
    """
    cfg = read_config(path)
    for name in RECIPE_VARIABLES:
        cfg.pop(name, None)
    if options:
        apply_overrides(cfg, options, source)
        if any(key.partition('.')[0] == 'custom_imports' for key in options):
            _import_modules(cfg, source)
    if not isinstance(cfg.get('model'), dict):
        raise ConfigError(
            f'config {path} has no `model`',
            expected="model=dict(type='Distiller', ...), or the model of a detector",
            actual=repr(cfg.get('model')),
        )
    if '::' not in path:
        find_named_files(cfg.model, Path(path).parent, 'model')
        load_from = cfg.get('load_from')
        if isinstance(load_from, str):
            cfg.load_from = find_file(load_from, Path(path).parent, 'load_from')
    init_default_scope(default_scope(cfg))
    return cfg


def _import_modules(cfg: Config, source: str) -> None:
    """Import what an override names; mmengine imports while it reads a file only."""
    names = custom_imports_of(cfg)
    try:
        import_modules_from_strings(names)
    except ImportError as error:
        raise ConfigError(
            f'{source}: custom_imports cannot be imported',
            actual=str(error).partition('\n')[0],
            fix='PYTHONPATH=. mkd-det ...  # with the folders of your own modules',
        ) from error


def default_scope(cfg: Mapping[str, Any]) -> str:
    """Return the scope in which the names of a config are looked up.

    A pure-Python config may have None; its types are classes. The names that mkd_det
    adds to it are mmdet's.

    Args:
        cfg: A config of a training.
    """
    return cfg.get('default_scope', 'mmengine') or 'mmdet'


def read_config(path: str) -> Config:
    """Read any config: a file, or a packaged config (`mmdet::...`).

    Args:
        path: The file or the name of the packaged config.

    Raises:
        ConfigError: The file does not exist, or it cannot be read.
    """
    if '::' in path:
        return _read_packaged(path)
    if not Path(path).is_file():
        folder = Path(path).is_dir()
        raise ConfigError(
            'the config is a folder' if folder else 'there is no such config file',
            expected='a config file',
            actual=path if Path(path).is_absolute() else f'{path}, from {Path.cwd()}',
            available=_siblings(Path(path, 'config.py') if folder else Path(path)),
        )
    with bases_in_both_places():
        check_cycles(path)
    try:
        with bases_in_both_places():
            return _completed(Config.fromfile(path))
    except ConfigError:
        raise
    except Exception as error:  # a config is code
        text = str(error.args[0] if isinstance(error, KeyError) else error)
        shown = text.partition(', the current sys')[0]  # leaves sys.path out
        raise ConfigError(
            f'config {path} cannot be read',
            actual=f'{type(error).__name__}: {shown}',
            fix=_suggest_fix(error, text, path),
        ) from error


def _completed(cfg: Config) -> Config:
    """Return a config that was read, with what mmengine leaves undone."""
    if cfg.filename and Config._is_lazy_import(cfg.filename):
        complete_pure_python(cfg, cfg.filename)
    return cfg


def _read_packaged(name: str) -> Config:
    package = name.partition('::')[0]
    try:
        # `get_config` installs a missing package with pip.
        if find_spec(package) is None:
            raise ModuleNotFoundError(f'package {package!r} is not installed')
        return _completed(get_config(name))
    except ConfigError:
        raise
    except Exception as error:  # a config is code
        raise ConfigError(
            'the packaged config does not exist or cannot be read',
            expected='mkd_det::folder/name.py, or mmdet::folder/name.py',
            actual=f'{name} ({type(error).__name__}: {error})',
        ) from error


def plain_model_cfg(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the plain model, for a distill config the student's.

    Includes the data preprocessor that stands beside the model: a runner passes it to a
    model that has none.

    Args:
        cfg: A config of a training.
    """
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
    """Return the names of the modules that a config imports."""
    given = cfg.get('custom_imports') or {}
    names = given.get('imports') if isinstance(given, Mapping) else given
    names = names or []
    if not isinstance(names, (str, list, tuple)):
        raise ConfigError(
            'custom_imports must name modules',
            actual=repr(given),
            fix="custom_imports = dict(imports=['your.module'])",
        )
    return [names] if isinstance(names, str) else list(names)


def add_custom_imports(cfg: Config, *names: str) -> None:
    """Make a config import modules, before those that it imports already."""
    imports = list(dict.fromkeys([*names, *custom_imports_of(cfg)]))
    cfg.custom_imports = dict(imports=imports, allow_failed_imports=False)


def configs_beside(checkpoint: str) -> list[str]:
    """Return the plain configs in the folder of a checkpoint, the newest first.

    mmengine writes the config of a training into its work dir. Distill configs, which
    may lie there too, are left out: a teacher has a config of its own.

    Args:
        checkpoint: Path or address of the checkpoint.
    """
    if '://' in checkpoint:
        return []
    files = [path for path in Path(checkpoint).parent.glob('*.py') if path.is_file()]
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [str(path) for path in files if not _names_distiller(path)]


def _names_distiller(path: Path) -> bool:
    text = path.read_text(encoding='utf-8', errors='replace')
    return re.search(r'\bDistiller\b', text) is not None


def _suggest_fix(error: Exception, text: str, path: str) -> str:
    """Return what to do about a config that cannot be read."""
    if 'please install mmpretrain' in text or 'please install mmseg' in text:
        return "pip install 'mkd_det[openmmlab]'"
    if isinstance(error, ImportError):
        return (
            f'PYTHONPATH=. mkd-det train {path}  # with the folders of your own modules'
        )
    if '.mim' in text:
        return 'pip install -e .  # in the folder of setup.py, links the configs'
    if isinstance(error, PermissionError):
        return f'chmod u+r {error.filename or path}'
    if isinstance(error, FileNotFoundError):
        return (
            'write `_base_` relative to the folder of the config that names it, or to'
            " the current folder; or _base_ = ['mkd_det::...']"
        )
    if 'Duplicate key' in text and 'custom_imports' in text:
        return (
            "custom_imports = dict(imports=['mkd_det', 'your.module'],"
            " allow_failed_imports=False) in this config, and not in the student's; or"
            ' mkd-det distill, which writes a config for students that have it'
        )
    if 'Duplicate key' in text:
        return (
            'remove one of the bases that have these keys, and write what it set in the'
            ' config itself'
        )
    return 'add --debug to see the traceback'


def _siblings(path: Path) -> list[str]:
    """Return files of the same suffix in the folder, or in the nearest parent."""
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    names = [str(p) for p in sorted(folder.glob(f'*{path.suffix or ".py"}'))]
    return nearest_names(str(path), names)
