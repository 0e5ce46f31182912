"""Makes the numbers, containers and log buffers that a pickle describes."""

from __future__ import annotations

import codecs
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from pickle import UnpicklingError
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer

from .pickled_tensors import Budget, Name, RefusedObjectError, in_words, is_size

# What an item of a copied container counts for, in bytes.
_ITEM = 64
_STATISTICS = ('min', 'max', 'mean', 'current')


class ArrayType:
    """Stands for a dtype of numpy while unpickling; numpy shares its own ones.

    Args:
        name: Its name, such as 'f8'.

    Attributes:
        order: Its byte order.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.order = '='

    @property
    def dtype(self) -> np.dtype:
        """The dtype."""
        return np.dtype(self.name).newbyteorder(self.order)  # type: ignore[arg-type]


# -- what stands for functions ---------------------------------------------------------


def _new_array(budget: Budget, kind: Any, shape: Any, code: Any) -> np.ndarray:
    if kind is not _NDARRAY or shape != (0,):
        raise UnpicklingError('an array with a shape before its values')
    return np.empty(0, np.int8)


def _array_type(budget: Budget, name: Any, *_: Any) -> ArrayType:
    """Return a type of numbers or strings, never one of objects."""
    if not isinstance(name, str) or not re.fullmatch(r'[biufcSU]\d{1,9}', name):
        raise RefusedObjectError(f'a numpy array of type {in_words(name)}')
    return ArrayType(name)


def _scalar(budget: Budget, kind: Any, data: Any) -> np.generic:
    if not isinstance(kind, ArrayType) or not isinstance(data, bytes):
        raise UnpicklingError('a number of numpy without type or value')
    budget.spend(len(data))
    (value,) = np.frombuffer(data, kind.dtype)
    return value


def _encode(budget: Budget, text: Any, encoding: Any = 'utf-8') -> bytes:
    """Return bytes, which protocol 2 saves as text."""
    if not isinstance(text, str) or encoding not in ('latin1', 'latin-1', 'utf-8'):
        raise UnpicklingError('bytes that are no text')
    budget.spend(len(text))
    return codecs.encode(text, encoding)


def _copy_as(kind: type) -> Callable[..., Any]:
    """Return a function that makes a container of the items of another one."""

    def call(budget: Budget, items: Any = (), *encoding: Any) -> Any:
        if encoding:  # as protocol 2 saves a bytearray
            items = _encode(budget, items, *encoding)
        if not isinstance(items, (list, tuple, dict, set, bytes)):
            raise UnpicklingError(f'a {kind.__name__} of {in_words(items)}')
        budget.spend(len(items) * (1 if kind in (bytes, bytearray) else _ITEM))
        return kind(items)

    return call


def _complex(budget: Budget, real: Any, imag: Any) -> complex:
    return complex(real, imag)


def _statistic(budget: Budget, owner: Any, name: Any) -> None:
    """Stand in for `getattr`, with which log buffers pickle their statistics.

    `fill_log_buffer` leaves them their own ones.
    """
    if owner is not LOG_BUFFER or name not in _STATISTICS:
        raise RefusedObjectError(f'getattr({in_words(owner)}, {in_words(name)})')


LOG_BUFFER = Name('mmengine.logging.history_buffer.HistoryBuffer')
_NDARRAY = Name('numpy.ndarray')
VALUE_NAMES = {
    name.name: name
    for name in (
        LOG_BUFFER,
        # Protocol 4 names the statistics of a log buffer directly.
        *(Name(f'{LOG_BUFFER.name}.{statistic}') for statistic in _STATISTICS),
        _NDARRAY,
        Name('numpy.core.multiarray._reconstruct', _new_array),
        Name('numpy.core.multiarray.scalar', _scalar),
        Name('numpy.dtype', _array_type),
        Name('_codecs.encode', _encode),
        Name('collections.OrderedDict', _copy_as(OrderedDict)),
        Name('collections.Counter', _copy_as(Counter)),
        Name('builtins.set', _copy_as(set)),
        Name('builtins.frozenset', _copy_as(frozenset)),
        Name('builtins.bytes', _copy_as(bytes)),
        Name('builtins.bytearray', _copy_as(bytearray)),
        Name('builtins.complex', _complex),
        Name('builtins.getattr', _statistic),
    )
}


# -- states of objects -----------------------------------------------------------------


def fill_array(budget: Budget, array: np.ndarray, state: Any) -> None:
    """Give an array its shape, type and values, which must fit each other."""
    _, shape, kind, in_fortran_order, data = state
    if not isinstance(kind, ArrayType) or not isinstance(data, bytes):
        raise UnpicklingError('an array without type or values')
    if not isinstance(shape, tuple) or not all(map(is_size, shape)):
        raise UnpicklingError(f'an array of shape {shape}')
    if math.prod(shape) * kind.dtype.itemsize != len(data):
        raise UnpicklingError(f'an array of shape {shape} with {len(data)} bytes')
    budget.spend(len(data))
    array.__setstate__((1, shape, kind.dtype, bool(in_fortran_order), data))  # type: ignore[arg-type]


def set_byte_order(kind: ArrayType, state: Any) -> None:
    """Set the byte order of a type."""
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
    if order not in ('<', '>', '|', '='):
        raise UnpicklingError(f'the byte order {order!r}')
    kind.order = order


def fill_log_buffer(history: HistoryBuffer, state: Any) -> None:
    """Give a log buffer its numbers; its statistics stay mmengine's own."""
    if not isinstance(state, Mapping):
        raise UnpicklingError('a log buffer without values')
    values = [state.get(name) for name in ('_log_history', '_count_history')]
    length = state.get('max_length')
    arrays = [v for v in values if isinstance(v, np.ndarray) and v.dtype.kind in 'biuf']
    shapes = {v.shape for v in arrays}
    if not is_size(length) or len(arrays) != 2 or len(shapes) != 1:
        raise UnpicklingError('a log buffer of other things than numbers')
    history.max_length = length
    history._log_history, history._count_history = arrays
