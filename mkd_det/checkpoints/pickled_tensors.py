"""Makes the tensors that a pickle describes, with memory that its file can fill.

What a pickle calls a function is a `Name` here: it stands for the function, and calls
another one that checks its arguments.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Expanded and overlapping tensors may take more memory than their file, by this factor
# and this number of bytes.
FACTOR, SLACK = 2, 2**24
_STORAGES = {
    'Float': torch.float32,
    'Double': torch.float64,
    'Half': torch.float16,
    'BFloat16': torch.bfloat16,
    'Char': torch.int8,
    'Byte': torch.uint8,
    'Untyped': torch.uint8,
    'Short': torch.int16,
    'Int': torch.int32,
    'Long': torch.int64,
    'Bool': torch.bool,
    'ComplexFloat': torch.complex64,
    'ComplexDouble': torch.complex128,
}
_UNSUPPORTED = {
    '_rebuild_sparse_tensor': 'sparse',
    '_rebuild_qtensor': 'quantized',
    '_rebuild_nested_tensor': 'nested',
    '_rebuild_meta_tensor_no_storage': 'meta',
    '_rebuild_wrapper_subclass': 'wrapped',
}


class RefusedObjectError(UnpicklingError):
    """The pickle asks for an object that is no tensor and no plain type."""


class UnsupportedTensorError(UnpicklingError):
    """The pickle holds a tensor of a kind that no checkpoint of a detector has."""


class Budget:
    """The memory that a file may take.

    Args:
        size: Size of the file in bytes.
    """

    def __init__(self, size: int) -> None:
        self._left = FACTOR * size + SLACK
        self._views: set[tuple] = set()

    def spend(self, size: int) -> None:
        """Count bytes.

        Raises:
            UnpicklingError: The file is too small for so many.
        """
        self._left -= size
        if self._left < 0:
            raise UnpicklingError('it describes more than a file of its size can hold')

    def spend_on_view(self, view: tuple, size: int) -> None:
        """Count the bytes of a tensor; equal views of one storage count once."""
        if view not in self._views:
            self._views.add(view)
            self.spend(size)


@dataclass(frozen=True)
class Storage:
    """The memory behind one or more tensors.

    Args:
        key: Its name in the file.
        memory: Its bytes.
        dtype: Type of the numbers in it.
    """

    key: str
    memory: torch.UntypedStorage
    dtype: torch.dtype


@dataclass(frozen=True)
class Name:
    """Stands for a class or function that a pickle names.

    Args:
        name: Its full name.
        call: Called in its place, with the budget and the arguments; None for what
            must not be called.
        dtype: Of a storage class, the type of its numbers.
    """

    name: str
    call: Callable[..., Any] | None = None
    dtype: torch.dtype | None = None


def find_torch_name(name: str) -> Any:
    """Return what stands for a class, function or type of torch; None if not allowed.

    Args:
        name: Its full name.

    Raises:
        UnsupportedTensorError: It makes a tensor of a kind that is not supported.
    """
    package, _, last = name.rpartition('.')
    if package == 'torch._utils' and last in _UNSUPPORTED:
        raise UnsupportedTensorError(f'a {_UNSUPPORTED[last]} tensor')
    if package in ('torch', 'torch.cuda', 'torch.storage') and last[-7:] == 'Storage':
        dtype = _STORAGES.get(last[:-7])
        return None if dtype is None else Name(name, dtype=dtype)
    if package == 'torch' and re.fullmatch(r'[a-z]+\d+\w*|bool', last):
        found = getattr(torch, last, None)
        if isinstance(found, torch.dtype):
            return found
    return TORCH_NAMES.get(name)


def is_size(value: Any) -> bool:
    """Return whether a value is an integer, not a bool, of at least 0."""
    return type(value) is int and value >= 0


def in_words(value: Any) -> str:
    """Return what a value is, for a message."""
    if isinstance(value, Name):
        return value.name
    return repr(value[:40]) if isinstance(value, str) else type(value).__name__


# -- what stands for the functions of torch --------------------------------------------


def _tensor(
    budget: Budget,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return a tensor that lies within its storage."""
    if not isinstance(storage, Storage):
        raise UnpicklingError('a tensor without storage')
    dtype = dtype or storage.dtype
    size, stride = tuple(size), tuple(stride)
    numbers = (*size, *stride, offset)
    if not all(map(is_size, numbers)) or len(size) != len(stride) or len(size) > 64:
        raise UnpicklingError(f'a tensor of size {size} and stride {stride}')
    count = math.prod(size)
    if count:
        last = offset + sum((n - 1) * step for n, step in zip(size, stride))
        if (last + 1) * dtype.itemsize > storage.memory.nbytes():
            raise UnpicklingError('a tensor is larger than its storage')
    view = (storage.key, offset, size, stride, dtype)
    budget.spend_on_view(view, count * dtype.itemsize)
    tensor = torch.empty(0, dtype=dtype)
    tensor.set_(storage.memory, offset, size, stride)
    return tensor.requires_grad_(requires_grad is True)


def _tensor_v2(budget: Budget, *given: Any) -> Tensor:
    return _tensor(budget, *given[:6])


def _tensor_v3(budget: Budget, *given: Any) -> Tensor:
    if len(given) < 7 or not isinstance(given[6], torch.dtype):
        raise UnpicklingError('a tensor without type')
    return _tensor(budget, *given[:7])


def _parameter(budget: Budget, data: Any, requires_grad: Any, *_: Any) -> nn.Parameter:
    if not isinstance(data, Tensor):
        raise UnpicklingError('a parameter without tensor')
    return nn.Parameter(data.detach(), requires_grad is True)


def _without_attributes(
    budget: Budget, function: Any, kind: Any, given: Any, *_: Any
) -> Tensor:
    """Return a tensor without the attributes that it was saved with."""
    if kind not in (_TENSOR, _PARAMETER) or function not in _FUNCTIONS:
        raise UnsupportedTensorError(f'a tensor of {in_words(kind)}')
    return function.call(budget, *given)


def _of_values(budget: Budget, data: Any, dtype: Any, *_: Any) -> Tensor:
    """Return a tensor of an accelerator, which is saved by its values."""
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(data)
    if not isinstance(data, Tensor) or not isinstance(dtype, torch.dtype):
        raise UnpicklingError('a tensor without values')
    budget.spend(data.numel() * dtype.itemsize)
    return data.to(dtype)


def _size(budget: Budget, sizes: Any) -> torch.Size:
    if not isinstance(sizes, (list, tuple)) or not all(map(is_size, sizes)):
        raise UnpicklingError('a size of other things than integers')
    budget.spend(8 * len(sizes))
    return torch.Size(sizes)


def _device(budget: Budget, *given: Any) -> torch.device:
    return torch.device(*given)


_TENSOR = Name('torch.Tensor')
_PARAMETER = Name('torch.nn.parameter.Parameter')
_FUNCTIONS = tuple(
    Name(f'torch._utils.{name}', call)
    for name, call in {
        '_rebuild_tensor': _tensor,
        '_rebuild_tensor_v2': _tensor_v2,
        '_rebuild_tensor_v3': _tensor_v3,
        '_rebuild_parameter': _parameter,
        '_rebuild_parameter_with_state': _parameter,
        '_rebuild_device_tensor_from_numpy': _of_values,
        '_rebuild_device_tensor_from_cpu_tensor': _of_values,
    }.items()
)
TORCH_NAMES = {
    name.name: name
    for name in (
        _TENSOR,
        _PARAMETER,
        *_FUNCTIONS,
        Name('torch._tensor._rebuild_from_type_v2', _without_attributes),
        Name('torch.Size', _size),
        Name('torch.device', _device),
    )
}
