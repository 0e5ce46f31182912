"""Plain attributes that objects change from one iteration to the next.

Some modules and transforms keep such state outside of parameters and buffers: the size
that `BatchSyncRandomResize` has drawn last, the history of a dynamic head. It is in no
state dict. What has changed since the start of the training is state; everything else
stands in the config.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import nn

# Attributes by name, for each object by its own name.
Attributes = dict[str, dict[str, Any]]

# What torch and mmengine keep in each module.
_INTERNAL = {*vars(nn.Module()), 'training', '_is_init', '_params_init_info'}
_CONTAINERS = (list, tuple, dict, set, deque)


def named_transforms(transforms: Iterable[Any]) -> dict[str, Any]:
    """Return transforms by their place in the pipelines and their class.

    Args:
        transforms: All transforms of a dataset, in order.
    """
    return {f'{i} {type(t).__name__}': t for i, t in enumerate(transforms)}


def read_attributes(objects: Mapping[str, Any]) -> Attributes:
    """Return the plain attributes of objects: numbers, texts, and rows of them.

    Args:
        objects: Modules or transforms, by name.
    """
    found: Attributes = {}
    for name, one in objects.items():
        for key, value in _attributes(one).items():
            plain = _plain(value)
            if plain is not NotImplemented:
                found.setdefault(name, {})[key] = plain
    return found


def changed_attributes(before: Attributes, now: Attributes) -> Attributes:
    """Return the attributes that have another value than before.

    Args:
        before: `read_attributes` at the start of the training.
        now: `read_attributes` now.
    """
    changed: Attributes = {}
    for name, attributes in now.items():
        old = before.get(name, {})
        for key, value in attributes.items():
            if key not in old or repr(old[key]) != repr(value):
                changed.setdefault(name, {})[key] = value
    return changed


def container_sizes(objects: Mapping[str, Any]) -> dict[str, int]:
    """Return the size of each container of objects, which may be a cache.

    Args:
        objects: Transforms, by name.
    """
    return {
        f'{name.rpartition(" ")[2]}.{key}': len(value)
        for name, one in objects.items()
        for key, value in _attributes(one).items()
        if isinstance(value, _CONTAINERS) and _plain(value) is NotImplemented
    }


def write_attributes(objects: Mapping[str, Any], attributes: Any) -> None:
    """Set attributes as they were; objects that are gone are skipped.

    Args:
        objects: Modules or transforms, by name.
        attributes: What `changed_attributes` has returned, through a file.
    """
    if not isinstance(attributes, Mapping):
        return
    for name, values in attributes.items():
        if name not in objects or not isinstance(values, Mapping):
            continue
        known = _attributes(objects[name])
        for key, value in values.items():
            if key in known:
                setattr(objects[name], key, value)


def _attributes(one: Any) -> dict[str, Any]:
    return {k: v for k, v in getattr(one, '__dict__', {}).items() if k not in _INTERNAL}


def _plain(value: Any) -> Any:
    """Return a value as plain types; NotImplemented where it is none."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        parts = [_plain(part) for part in value]
        if any(part is NotImplemented for part in parts):
            return NotImplemented
        return tuple(parts) if isinstance(value, tuple) else parts
    return NotImplemented
