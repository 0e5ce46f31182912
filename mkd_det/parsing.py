"""Fill typed, frozen dataclasses from the dicts of a config.

One parser serves every config of the package. The annotations of a dataclass say
what its keys may hold, its `__post_init__` checks values, and the `Args:` section of
its docstring documents them. `SamplingConfig` in `config/parts.py` is an example:

    parse(SamplingConfig, dict(keep_prob=0.5), 'sampling')
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import ConfigError, check_string_keys, is_integer, is_number, nearest_names

T = TypeVar('T')

# mmengine adds this key to the dicts that a config takes from a `package::` base.
SCOPE_KEY = '_scope_'
# Similarity above which the name of a part may be a misspelling of another.
_SIMILAR = 0.7

_PLAIN: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ('True or False', lambda value: isinstance(value, bool)),
    int: ('a whole number', is_integer),
    float: ('a finite number', is_number),
    str: ('a string', lambda value: isinstance(value, str)),
    os.PathLike: ('a path', lambda value: isinstance(value, os.PathLike)),
    type: ('a class', lambda value: isinstance(value, type)),
    NoneType: ('None', lambda value: value is None),
    Any: ('anything', lambda value: True),
}


def key(
    default: Any = MISSING,
    *,
    factory: Any = MISSING,
    words: str = '',
    example: str = '',
    rest: bool = False,
) -> Any:
    """Declare a key of a config: `dataclasses.field` with what messages need.

    Args:
        default: Value of a key that is not given. A key without default is required.
        factory: Makes the default, where it is mutable.
        words: What the key must hold, if the annotation does not say it well.
        example: Text that could be written, for the `fix:` line of an error.
        rest: Collect all keys that the dataclass does not have (of type `dict`).
    """
    metadata = dict(words=words, example=example, rest=rest)
    if rest:
        factory = dict
    return field(default=default, default_factory=factory, metadata=metadata)


def parse(
    cls: type[T],
    given: Any,
    where: str = '',
    *,
    label: str = '',
    beside: Iterable[str] = (),
) -> T:
    """Make a dataclass of a config's dict. Nested dataclasses are parsed as well.

    Lists become tuples, dicts are copied. None stands for the default of a key whose
    value is a dict.

    Args:
        cls: The dataclass.
        given: The dict, or an instance of `cls`, which is returned as it is.
        where: Path of the dict in the config, for messages; '' for the outermost.
        label: What messages call the outermost dict.
        beside: Keys that the same dict may hold and somebody else reads; named among
            the available ones.

    Raises:
        ConfigError: A key is unknown or missing, or its value does not fit.
    """
    if isinstance(given, cls):
        return given
    check_string_keys(given, where or label)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    rest = next((n for n, f in known.items() if f.metadata.get('rest')), None)
    if rest is not None:
        del known[rest]
    values: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, value in (given or {}).items():
        if name in known:
            values[name] = value
        elif rest is not None:
            others[name] = value
        elif name != SCOPE_KEY:
            raise ConfigError(
                f'{where or label}: unknown key {name!r}',
                actual=name,
                available=nearest_names(name, [*known, *beside], limit=len(known) + 8),
            )
    _check_required(known, values, where or label)
    hints = get_type_hints(cls)
    values = {
        name: _value(name, hints[name], value, where, known[name].metadata)
        for name, value in values.items()
        if not _stands_for_default(known[name], hints[name], value)
    }
    if rest is not None:
        others.pop(SCOPE_KEY, None)
        values[rest] = others
    try:
        return cls(**values)
    except ConfigError as error:
        if where:
            error.message = f'{where}: {error.message}'
        raise


def documented(cls: type) -> dict[str, str]:
    """Text of the `Args:` section of a class, by the name of the argument."""
    text = inspect.getdoc(cls) or ''
    section = re.search(r'^Args:\n((?:[ ].*\n?|\n)*)', text, re.MULTILINE)
    found: dict[str, str] = {}
    name = ''
    for line in section[1].splitlines() if section else ():
        start = re.match(r' {4}(\w+): (.*)', line)
        if start:
            name = start[1]
            found[name] = start[2]
        elif name and line.strip():
            found[name] += ' ' + line.strip()
    return found


def words_of(annotation: Any) -> str:
    """Say in words what an annotation allows."""
    if annotation in _PLAIN:
        return _PLAIN[annotation][0]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        *first, last = map(words_of, args)
        return f'{", ".join(first)} or {last}'
    if origin is Literal:
        return ' or '.join(map(repr, args))
    if origin is tuple:
        if args[-1] is Ellipsis:
            return f'a list of {_plural(words_of(args[0]))}'
        return f'({", ".join(map(words_of, args))})'
    return 'a dict'


def _plural(words: str) -> str:
    """Plural of words like 'a string'; other words stay as they are."""
    return re.sub(r'^an? (.*)$', r'\1s', words)


def _check_required(
    known: Mapping[str, Field], values: Mapping[str, Any], where: str
) -> None:
    for name, entry in known.items():
        if _is_required(entry) and name not in values:
            raise ConfigError(
                f'{where}: `{name}` is missing',
                expected=entry.metadata.get('words') or None,
                available=list(known),
                fix=entry.metadata.get('example') or f'{name}=...',
            )


def _is_required(entry: Field) -> bool:
    """Whether a key has no default."""
    return entry.default is MISSING and entry.default_factory is MISSING


def _stands_for_default(entry: Field, annotation: Any, value: Any) -> bool:
    """Whether `value` is the None of a key whose value is a dict."""
    optional = not _is_required(entry)
    return value is None and optional and _nested(annotation) is annotation


def _value(
    name: str, annotation: Any, value: Any, where: str, metadata: Mapping[str, Any]
) -> Any:
    """Value of one key, as the annotation wants it.

    Args:
        name: The key.
        annotation: Its type.
        value: What the config gives.
        where: Path of the dict that holds the key.
        metadata: The arguments of `key`.

    Raises:
        ConfigError: The value does not fit.
    """
    path = f'{where}.{name}' if where else name
    prefix = f'{where}: ' if where else ''
    if value is None and NoneType in _parts(annotation):
        return None
    nested = _nested(annotation)
    if is_dataclass(nested) and isinstance(value, nested):  # type: ignore[arg-type]
        return value
    if nested is not None and (isinstance(value, Mapping) or nested is annotation):
        check_string_keys(value, path)
        return _convert(nested, value, path)
    try:
        return _convert(annotation, value, path)
    except _Unfit:
        pass
    choices = [a for part in _parts(annotation) for a in _choices(part)]
    if choices and isinstance(value, str):
        raise ConfigError(
            f'{prefix}unknown {name}',
            actual=value,
            available=nearest_names(value, map(str, choices)),
        )
    raise ConfigError(
        f'{prefix}{name} must be ' + (metadata.get('words') or words_of(annotation)),
        actual=repr(value),
        fix=metadata.get('example') or '',
    )


class _Unfit(Exception):
    """A value does not fit its annotation; the caller raises the error for the key."""


def _parts(annotation: Any) -> tuple[Any, ...]:
    union = get_origin(annotation) in (Union, UnionType)
    return get_args(annotation) if union else (annotation,)


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _nested(annotation: Any) -> Any:
    """Return the part of an annotation that takes a dict, or None."""
    for part in _parts(annotation):
        if part not in _PLAIN and words_of(part) == 'a dict':
            return part
    return None


def _convert(annotation: Any, value: Any, path: str) -> Any:
    """`value` as `annotation` wants it.

    Raises:
        _Unfit: It does not fit.
        ConfigError: Something inside of it does not fit.
    """
    if annotation in _PLAIN:
        if _PLAIN[annotation][1](value):
            return value
        raise _Unfit
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        for part in args:
            try:
                return _convert(part, value, path)
            except _Unfit:
                continue
        raise _Unfit
    if origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in args):
            return value
        raise _Unfit
    if origin is tuple:
        return _convert_list(args, value, path)
    if is_dataclass(annotation):
        return parse(annotation, value, path)  # type: ignore[arg-type]
    if not isinstance(value, Mapping):
        raise _Unfit
    inner = args[1] if args else Any
    _check_parts(inner, value, path)
    return {name: _value(name, inner, part, path, {}) for name, part in value.items()}


def _check_parts(cls: Any, parts: Mapping[str, Any], path: str) -> None:
    """Raise where a part lacks a key, and its name resembles that of another part.

    A misspelt name makes a new part of the few keys that were to be changed.
    """
    if not is_dataclass(cls):
        return
    required = [f.name for f in fields(cls) if _is_required(f)]
    for name, part in parts.items():
        missing = [n for n in required if isinstance(part, Mapping) and n not in part]
        others = [other for other in parts if other != name]
        similar = get_close_matches(name, others, 1, _SIMILAR)
        if missing and similar:
            keys = ', '.join(f'{k}={v!r}' for k, v in part.items() if k != SCOPE_KEY)
            raise ConfigError(
                f'{path}: there is no {name!r} to change, and a new one needs'
                f' `{missing[0]}`',
                actual=name,
                available=nearest_names(name, others),
                fix=f'{similar[0]}=dict({keys})',
            )


def _convert_list(args: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _Unfit
    kinds = args if args[-1] is not Ellipsis else (args[0],) * len(value)
    if len(kinds) != len(value):
        raise _Unfit
    return tuple(
        _convert(kind, part, f'{path}[{index}]')
        for index, (kind, part) in enumerate(zip(kinds, value))
    )
