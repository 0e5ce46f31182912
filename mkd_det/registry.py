"""Registries for what a distill config names by `type`, and for head readers.

A new loss, adapter, probe, branch or head reader of this package is one new file in
its room: the rooms import all their files. Users register theirs in a module that
`custom_imports` names:

    from mkd_det import LOSSES, PairLoss

    @LOSSES.register_module()
    class MyLoss(PairLoss): ...
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, NamedTuple

import mmengine.registry
from mmengine.registry import Registry
from mmengine.utils import get_object_from_string

from .errors import (
    ConfigError,
    MkdError,
    as_config_error,
    fix_of_argument,
    is_integer,
    is_number,
    nearest_names,
)

LOSSES = Registry('distill loss', scope='mkd_det', locations=['mkd_det.losses'])
ADAPTERS = Registry(
    'adapter', scope='mkd_det', locations=['mkd_det.adapters', 'mkd_det.probes']
)
BRANCHES = Registry('branch', scope='mkd_det', locations=['mkd_det.branches'])
HEADS = Registry('head reader', scope='mkd_det', locations=['mkd_det.heads'])
BALANCES = Registry('balance', scope='mkd_det', locations=['mkd_det.weighting'])


def type_name(kind: Any) -> str:
    """Return the name of a `type`: a class, or a string with or without a scope."""
    if isinstance(kind, type):
        return kind.__name__
    return str(kind or '').rpartition('.')[2]


def name_of_object(value: Any) -> str:
    """Return a name by which mmengine's registries find a class or function.

    Args:
        value: The class or function.

    Returns:
        Its module and name; if another object hides its module, the name in the
        registry that holds it; '' if neither leads to it.
    """
    name = f'{value.__module__}.{value.__qualname__}'
    if get_object_from_string(name) is value:
        return name
    for root in vars(mmengine.registry).values():
        if not isinstance(root, Registry):
            continue
        for registry in (root, *root.children.values()):
            for key, known in registry.module_dict.items():
                if known is value:
                    return f'{registry.scope}.{key}'
    return ''


def find_class(registry: Registry, cfg: dict, where: str) -> type:
    """Return the class that `cfg['type']` names.

    Args:
        registry: The registry.
        cfg: A dict with `type`: a name, a class, or a class's module and name.
        where: Name of the part, for the message.

    Raises:
        ConfigError: There is no such class; the nearest names are listed.
    """
    kind = cfg.get('type')
    if isinstance(kind, type):
        return kind
    # default_scope may be 'mmdet': ask our own registry, never its siblings.
    registry.import_from_location()
    known = registry.module_dict
    if kind not in known and isinstance(kind, str) and '.' in kind:
        # mmengine writes the classes of pure-Python configs in this way.
        with suppress(ValueError, TypeError):  # empty names between the dots
            found = get_object_from_string(kind)
            if isinstance(found, type):
                return found
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
    """Build an object from a dict with `type`.

    Args:
        registry: The registry.
        cfg: The dict.
        where: Name of the part, for messages.
        **defaults: Arguments that `cfg` may override.

    Raises:
        ConfigError: The class is not registered, or takes no such arguments.
    """
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
    """Build a model from its config.

    Args:
        registry: The registry of mmengine or mmdet.
        cfg: The model's config.
        where: Name of the model, for the message.

    Raises:
        ConfigError: It cannot be built from this config.
    """
    with as_config_error(f'{where}: the model'):
        return registry.build(cfg)
    raise AssertionError  # mypy: `as_config_error` lets no exception vanish


def argument_names(cls: type) -> list[str]:
    """Return the names of all arguments that a class takes.

    A constructor with `**` passes arguments on to the next class of the mro.

    Args:
        cls: The class.
    """
    return [name for name, _ in _parameters(cls)]


def arguments_with_defaults(cls: type, cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return every argument of a class, as `cfg` gives it, or its default.

    Args:
        cls: The class.
        cfg: Some of its arguments.
    """
    return {name: cfg.get(name, p.default) for name, p in _parameters(cls)}


def _parameters(cls: type) -> Iterator[tuple[str, inspect.Parameter]]:
    """Yield the arguments of the constructors along the mro, without repetitions.

    It ends at the first constructor without `**`, which passes nothing on.
    """
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
    """Raise ConfigError for unknown, missing and wrong arguments of a class."""
    known = argument_names(cls)
    for key in kwargs:
        if key not in known:
            raise ConfigError(
                f'{where}: {cls.__name__} takes no argument {key!r}',
                actual=key,
                available=nearest_names(key, known, limit=len(known)),
                fix=fix_of_argument(key, known),
            )
    checks = _checks_of(cls)
    for key, value in kwargs.items():
        if key in checks and not checks[key].accepts(value):
            raise ConfigError(
                f'{where}: {key} must be {checks[key].words}', actual=repr(value)
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


class _TypeCheck(NamedTuple):
    """What an annotation allows, in words and as a test."""

    words: str
    accepts: Callable[[Any], bool]


_TYPE_CHECKS = {
    'float': _TypeCheck('a finite number', is_number),
    'int': _TypeCheck('a whole number', is_integer),
    'bool': _TypeCheck('True or False', lambda value: isinstance(value, bool)),
    'str': _TypeCheck('a string', lambda value: isinstance(value, str)),
}


def _checks_of(cls: type) -> dict[str, _TypeCheck]:
    """Return the checks of all arguments with a plain annotation."""
    checks = ((name, _type_check(p.annotation)) for name, p in _parameters(cls))
    return {name: check for name, check in checks if check}


def _type_check(annotation: Any) -> _TypeCheck | None:
    """Return the check of `float`, `int`, `bool`, `str`, or one of them or None."""
    text = (
        annotation
        if isinstance(annotation, str)
        else getattr(annotation, '__name__', '')
    )
    plain, _, rest = text.partition(' | ')
    check = _TYPE_CHECKS.get(plain)
    if check is None or rest not in ('', 'None'):
        return None
    if not rest:
        return check
    accepts = check.accepts
    return _TypeCheck(
        f'{check.words}, or None', lambda value: value is None or accepts(value)
    )


def import_files(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that a new file is found by itself.

    Packages inside the package are imported in the same way. The classes of all
    modules can be imported from the package as well.

    Args:
        package: The package's `__name__`.
        path: Its `__path__`.
    """
    room = import_module(package)
    for info in pkgutil.walk_packages(path, f'{package}.'):
        module = import_module(info.name)
        for name, value in vars(module).items():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and not name.startswith('_'):
                setattr(room, name, value)
