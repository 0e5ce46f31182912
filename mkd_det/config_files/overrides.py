"""Overrides of a config by dotted keys: applied, or refused with the nearest names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from ..errors import ConfigError, nearest_names

# Keys of a config that mmengine reads outside the arguments of Runner.
_NON_RUNNER_KEYS = (
    'custom_imports',
    'model_wrapper_cfg',
    'runner_type',
    'tta_model',
    'tta_pipeline',
)
# One of these keys is in each member of a collection of parts, such as `terms`.
_PART_KEYS = ('type', 'cfg')
# `prepare_config` adds hooks: `default_hooks.teacher_check.num_images` is right.
_OPEN_COLLECTIONS = ('default_hooks',)
# Similarity above which a new key may be a misspelling of a known one.
_SIMILAR = 0.8


def apply_overrides(cfg: Config, options: Mapping[str, Any], source: str) -> None:
    """Merge overrides into a config.

    As with mmengine, a new key is allowed below a known one: it sets an argument that
    the config leaves at its default. A key that resembles a known one is printed. A
    new key at the top level would have no effect, and a new part (a term, an adapter)
    needs its type.

    Args:
        cfg: The config; it is changed.
        options: Values by dotted key.
        source: The option that gave them, for messages.

    Raises:
        ConfigError: A top-level key or a part is unknown, or a key does not fit the
            config.
    """
    for key in options:
        _check_top(cfg, key, source)
        _check_part(cfg, key, options, source)
    for key in options:
        similar = _similar_key(cfg, key)
        if similar:
            print(f'{source}: {key} is a new key; the config has {similar}')
    for key, value in options.items():
        try:
            cfg.merge_from_dict({key: value})
        except (KeyError, TypeError, AttributeError, AssertionError) as error:
            raise ConfigError(
                f'{source}: {key} does not fit the config',
                actual=str(error.args[0] if error.args else error).partition('\n')[0],
            ) from error


def _check_top(cfg: Config, key: str, source: str) -> None:
    """Raise ConfigError unless the first name of a key is known."""
    first = key.partition('.')[0]
    known = {*cfg, *inspect.signature(Runner.__init__).parameters, *_NON_RUNNER_KEYS}
    if first not in known:
        raise ConfigError(
            f'{source}: the config has no {first!r}',
            actual=key,
            available=nearest_names(first, cfg),
        )


def _check_part(cfg: Config, key: str, options: Mapping[str, Any], source: str) -> None:
    """Raise ConfigError for a key of a part that the config does not have."""
    names = key.split('.')
    for depth, parent in enumerate(_parents(cfg, names)):
        name, where = names[depth], '.'.join(names[:depth])
        required = _required_key(parent)
        if required is None or name in parent or where in _OPEN_COLLECTIONS:
            continue
        if f'{where}.{name}.{required}' in options or depth == len(names) - 1:
            continue
        nearest = nearest_names(name, parent)
        rest = '.'.join(names[depth + 1 :])
        raise ConfigError(
            f'{source}: {where} has no {name!r}',
            actual=key,
            available=nearest,
            fix=f'{where}.{nearest[0]}.{rest}={options[key]}',
        )


def _parents(cfg: Any, names: list[str]) -> Iterator[Any]:
    """Yield the value before each name of a dotted key, as far as the config goes."""
    for name in names:
        yield cfg
        if isinstance(cfg, (Mapping, Config)) and name in cfg:
            cfg = cfg[name]
        elif isinstance(cfg, (list, tuple)) and name.isdigit() and int(name) < len(cfg):
            cfg = cfg[int(name)]
        else:
            return


def _required_key(parent: Any) -> str | None:
    """Return the key that all members of a collection have; None for other values."""
    members = list(parent.values()) if isinstance(parent, Mapping) else []
    if not members or not all(isinstance(member, Mapping) for member in members):
        return None
    return next((key for key in _PART_KEYS if all(key in m for m in members)), None)


def _similar_key(cfg: Config, key: str) -> str | None:
    """Return a key of the config that a new key resembles."""
    names = key.split('.')
    parents = list(_parents(cfg, names))
    depth = len(parents) - 1
    parent, name = parents[-1], names[depth]
    if not isinstance(parent, (Mapping, Config)) or name in parent:
        return None
    if _required_key(parent):  # a new part
        return None
    similar = get_close_matches(name, [str(k) for k in parent], 1, _SIMILAR)
    return '.'.join([*names[:depth], similar[0]]) if similar else None
