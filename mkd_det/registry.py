"""Registries for what a distill config names by `type`.

Users add their own with a decorator, in a module named by `custom_imports`:

    from mkd_det.registry import LOSSES

    @LOSSES.register_module()
    class MyLoss(PairLoss): ...
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from mmengine.registry import Registry

from .errors import ConfigError, nearest

LOSSES = Registry('distill loss', scope='mkd_det', locations=['mkd_det.losses'])
ADAPTERS = Registry('adapter', scope='mkd_det', locations=['mkd_det.adapters'])
BRANCHES = Registry('branch', scope='mkd_det', locations=['mkd_det.branches'])


def find_class(registry: Registry, cfg: dict, where: str) -> type:
    """The class that `cfg['type']` names, or ConfigError with the nearest names."""
    kind = cfg.get('type')
    if isinstance(kind, type):
        return kind
    # default_scope may be 'mmdet': ask our own registry, never its siblings.
    registry.import_from_location()
    known = registry.module_dict
    if kind not in known:
        raise ConfigError(
            f'{where}: {kind!r} is no registered {registry.name}',
            actual=kind,
            available=nearest(str(kind), known, limit=len(known)),
            hint="custom_imports=dict(imports=['mkd_det', 'your.module'])"
            ' if it is your own',
        )
    return known[kind]


def build(registry: Registry, cfg: dict, where: str, **defaults: Any) -> Any:
    """Build `cfg` (a dict with `type`), turning bad arguments into ConfigError."""
    cls = find_class(registry, cfg, where)
    # mmengine adds `_scope_` to what a config takes from a `package::` base.
    own = {k: v for k, v in cfg.items() if k not in ('type', '_scope_')}
    kwargs = {**defaults, **own}
    _check_arguments(cls, kwargs, where)
    return cls(**kwargs)


def arguments_of(cls: type) -> list[str]:
    """Names that the constructors along the mro take, as far as they pass them on."""
    known: list[str] = []
    for base in cls.__mro__:
        init = base.__dict__.get('__init__')
        if init is None or base.__module__.startswith('torch.'):
            continue
        parameters = list(inspect.signature(init).parameters.values())[1:]
        known += [
            p.name
            for p in parameters
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return known


def _check_arguments(cls: type, kwargs: dict, where: str) -> None:
    """Every argument must be one that a constructor along the mro takes."""
    known = arguments_of(cls)
    for key in kwargs:
        if key not in known:
            raise ConfigError(
                f'{where}: {cls.__name__} takes no argument {key!r}',
                actual=key,
                available=nearest(key, known, limit=len(known)),
            )
    for name, parameter in inspect.signature(cls).parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if needed and name not in kwargs:
            raise ConfigError(
                f'{where}: {cls.__name__} needs the argument {name!r}',
                available=known,
                hint=f'dict(type={cls.__name__!r}, {name}=...)',
            )


def import_files(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that a new file is found by itself.

    Args:
        package: The package's `__name__`.
        path: Its `__path__`.
    """
    for module in pkgutil.iter_modules(path):
        import_module(f'{package}.{module.name}')
