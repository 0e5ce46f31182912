"""Registries for what a distill config names by `type`.

Users add their own with a decorator, in a module named by `custom_imports`:

    from mkd_det.registry import LOSSES

    @LOSSES.register_module()
    class MyLoss(PairLoss): ...
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

from mmengine.registry import Registry

from .errors import (
    ConfigError,
    MkdError,
    as_config_error,
    is_integer,
    is_number,
    nearest_names,
)

LOSSES = Registry('distill loss', scope='mkd_det', locations=['mkd_det.losses'])
ADAPTERS = Registry(
    'adapter', scope='mkd_det', locations=['mkd_det.adapters', 'mkd_det.probes']
)
BRANCHES = Registry('branch', scope='mkd_det', locations=['mkd_det.branches'])
BALANCES = Registry(
    'balance', scope='mkd_det', locations=['mkd_det.weighting.gradient_share']
)


def type_name(kind: Any) -> str:
    """The name of a `type`: a class, or a string with or without a scope."""
    if isinstance(kind, type):
        return kind.__name__
    return str(kind or '').rpartition('.')[2]


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
            available=nearest_names(str(kind), known, limit=len(known)),
            fix="custom_imports=dict(imports=['mkd_det', 'your.module'])"
            ' if it is your own',
        )
    return known[kind]


def build_component(registry: Registry, cfg: dict, where: str, **defaults: Any) -> Any:
    """Build `cfg` (a dict with `type`), turning bad arguments into ConfigError."""
    cls = find_class(registry, cfg, where)
    # mmengine adds `_scope_` to what a config takes from a `package::` base.
    own = {k: v for k, v in cfg.items() if k not in ('type', '_scope_')}
    kwargs = {**defaults, **own}
    _check_arguments(cls, kwargs, where)
    try:
        return cls(**kwargs)
    except MkdError as error:
        if where not in error.message:
            error.message = f'{where}: {error.message}'
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f'{where}: {cls.__name__} cannot be built from these arguments',
            actual=f'{type(error).__name__}: {error}',
        ) from error


def build_mmengine_model(registry: Registry, cfg: dict, where: str) -> Any:
    """Build a model of mmdet's, turning what is wrong with its config into ConfigError.

    Args:
        registry: Of mmengine or mmdet.
        cfg: The model's config.
        where: What it is, for the message.
    """
    with as_config_error(f'{where}: the model'):
        return registry.build(cfg)
    raise AssertionError  # mypy: `as_config_error` lets no exception vanish


def argument_names(cls: type) -> list[str]:
    """Names that the constructors along the mro take, as far as they pass them on."""
    return [name for name, _ in _parameters(cls)]


def arguments_with_defaults(cls: type, cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument of the constructors along the mro, as `cfg` gives it, or else
    its default."""
    return {name: cfg.get(name, p.default) for name, p in _parameters(cls)}


def _parameters(cls: type) -> Iterator[tuple[str, inspect.Parameter]]:
    """What the constructors along the mro take, up to the first that passes nothing
    on (has no `**`). Of several of one name the first counts."""
    seen: set[str] = set()
    for base in cls.__mro__:
        init = base.__dict__.get('__init__')
        if init is None or base.__module__.startswith('torch.'):
            continue
        parameters = list(inspect.signature(init).parameters.values())[1:]
        for p in parameters:
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in seen:
                seen.add(p.name)
                yield p.name, p
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return


def _check_arguments(cls: type, kwargs: dict, where: str) -> None:
    """Every argument must be one that a constructor along the mro takes."""
    known = argument_names(cls)
    for key in kwargs:
        if key not in known:
            raise ConfigError(
                f'{where}: {cls.__name__} takes no argument {key!r}',
                actual=key,
                available=nearest_names(key, known, limit=len(known)),
            )
    kinds = _kinds_of(cls)
    for key, value in kwargs.items():
        if key in kinds and not kinds[key][1](value):
            raise ConfigError(
                f'{where}: {key} must be {kinds[key][0]}', actual=repr(value)
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
                fix=f'dict(type={cls.__name__!r}, {name}=...)',
            )


# What an annotation promises, in words, and how to tell.
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    'float': ('a finite number', is_number),
    'int': ('a whole number', is_integer),
    'bool': ('True or False', lambda value: isinstance(value, bool)),
    'str': ('a string', lambda value: isinstance(value, str)),
}


def _kinds_of(cls: type) -> dict[str, tuple[str, Callable[[Any], bool]]]:
    """Of the arguments whose annotation is as plain as that."""
    kinds = ((name, _kind(p.annotation)) for name, p in _parameters(cls))
    return {name: kind for name, kind in kinds if kind}


def _kind(annotation: Any) -> tuple[str, Callable[[Any], bool]] | None:
    text = (
        annotation
        if isinstance(annotation, str)
        else getattr(annotation, '__name__', '')
    )
    plain, _, rest = text.partition(' | ')
    if plain not in _KINDS or rest not in ('', 'None'):
        return None
    words, test = _KINDS[plain]
    return (f'{words}, or None', _or_none(test)) if rest else (words, test)


def _or_none(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or test(value)


def import_files(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that a new file is found by itself.

    Args:
        package: The package's `__name__`.
        path: Its `__path__`.
    """
    for module in pkgutil.iter_modules(path):
        import_module(f'{package}.{module.name}')
