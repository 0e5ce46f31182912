"""Unpickling of tensors and plain types only, bounded by the size of the file."""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from .pickled_tensors import (
    Budget,
    Name,
    RefusedObjectError,
    Storage,
    find_torch_name,
    in_words,
    is_size,
)
from .pickled_values import (
    LOG_BUFFER,
    VALUE_NAMES,
    ArrayType,
    fill_array,
    fill_log_buffer,
    set_byte_order,
)

# What a made object counts for, in bytes.
_OBJECT = 256
# Modules that have another name in old protocols, or in numpy 2.
_RENAMED = {
    '__builtin__': 'builtins',
    'numpy._core.multiarray': 'numpy.core.multiarray',
}
# Opcodes that make plain types and call nothing: Python's own interpreter runs them.
_PLAIN = (  # noqa: SIM905  (one on a line would be fifty lines)
    'MARK STOP POP POP_MARK DUP FLOAT INT BININT BININT1 LONG BININT2 NONE BINPERSID'
    ' STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE DICT EMPTY_DICT GLOBAL GET'
    ' BINGET LONG_BINGET LIST EMPTY_LIST PUT BINPUT LONG_BINPUT TUPLE EMPTY_TUPLE'
    ' BINFLOAT PROTO TUPLE1 TUPLE2 TUPLE3 NEWTRUE NEWFALSE LONG1 LONG4 BINBYTES'
    ' SHORT_BINBYTES SHORT_BINUNICODE BINUNICODE8 BINBYTES8 EMPTY_SET FROZENSET'
    ' STACK_GLOBAL MEMOIZE FRAME'
).split()
# Opcodes that call or change objects: methods of `PlainUnpickler` run them.
_CHECKED = (  # noqa: SIM905
    'REDUCE NEWOBJ BUILD APPEND APPENDS SETITEM SETITEMS ADDITEMS'
).split()
# The others call classes, or take memory before they read.
_REFUSED = (  # noqa: SIM905
    'INST OBJ NEWOBJ_EX EXT1 EXT2 EXT4 PERSID BYTEARRAY8 NEXT_BUFFER READONLY_BUFFER'
).split()


class PlainUnpickler(pickle._Unpickler):
    """An unpickler that makes tensors and plain types, and calls nothing else.

    It is stricter than `torch.load(weights_only=True)`. It allows what checkpoints of
    mmengine hold and no more. And it takes no more memory than the file can fill:
    tensors lie within their storage, and copies count.

    Args:
        file: The pickle.
        size: Size of the whole file in bytes.
        load_storage: Returns the storage for (key, dtype, number of elements).
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {}  # filled below
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        load_storage: Callable[[str, torch.dtype, int], Storage],
    ) -> None:
        super().__init__(file, encoding='utf-8')
        self._load_storage = load_storage
        self._budget = Budget(size)

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a class or function.

        Raises:
            RefusedObjectError: It is not allowed.
        """
        full = f'{_RENAMED.get(module, module)}.{name}'
        found = VALUE_NAMES.get(full) or find_torch_name(full)
        if found is None:
            raise RefusedObjectError(f'{module}.{name}')
        return found

    def persistent_load(self, pid: Any) -> Storage:
        """Return the storage that a tensor refers to."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6):
            raise UnpicklingError('a reference to no storage')
        word, kind, key, _, count, *view = pid
        dtype = kind.dtype if isinstance(kind, Name) else None
        if word not in ('storage', b'storage') or dtype is None or any(view):
            raise UnpicklingError('a reference to no storage')
        if not isinstance(key, str) or not is_size(count):
            raise UnpicklingError('a reference to no storage')
        return self._load_storage(key, dtype, count)

    # -- opcodes -----------------------------------------------------------------------

    def load_reduce(self) -> None:
        """Call what stands for a function."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, Name) or function.call is None:
            raise RefusedObjectError(f'a call of {in_words(function)}')
        self._budget.spend(_OBJECT)
        self.stack[-1] = function.call(self._budget, *arguments)

    def load_newobj(self) -> None:
        """Make the only object that is pickled by its class: a log buffer."""
        arguments = self.stack.pop()
        kind = self.stack.pop()
        if kind is not LOG_BUFFER or arguments != ():
            raise RefusedObjectError(f'an object of {in_words(kind)}')
        self._budget.spend(_OBJECT)
        self.append(HistoryBuffer())

    def load_build(self) -> None:
        """Fill an object that was made before."""
        state = self.stack.pop()
        made = self.stack[-1]
        if type(made) is np.ndarray:
            fill_array(self._budget, made, state)
        elif type(made) is ArrayType:
            set_byte_order(made, state)
        elif type(made) is HistoryBuffer:
            fill_log_buffer(made, state)
        elif type(made) is OrderedDict and isinstance(state, dict):
            # A state dict carries the versions of its modules.
            if '_metadata' in state:
                made._metadata = state['_metadata']  # type: ignore[attr-defined]
        else:
            raise RefusedObjectError(f'a state of {in_words(made)}')

    def load_append(self) -> None:
        """Append an item to a list."""
        item = self.stack.pop()
        self._top(list).append(item)

    def load_appends(self) -> None:
        """Append items to a list."""
        items = self.pop_mark()
        self._top(list).extend(items)

    def load_setitem(self) -> None:
        """Set an item of a dict."""
        value = self.stack.pop()
        key = self.stack.pop()
        self._top(dict, OrderedDict, Counter)[key] = value

    def load_setitems(self) -> None:
        """Set items of a dict."""
        items = self.pop_mark()
        self._top(dict, OrderedDict, Counter).update(zip(items[::2], items[1::2]))

    def load_additems(self) -> None:
        """Add items to a set."""
        items = self.pop_mark()
        self._top(set).update(items)

    def refuse_opcode(self) -> None:
        """Refuse an opcode that no checkpoint needs."""
        raise RefusedObjectError('an object that is made in an unusual way')

    def _top(self, *types: type) -> Any:
        if type(self.stack[-1]) not in types:
            raise RefusedObjectError(f'items of {in_words(self.stack[-1])}')
        return self.stack[-1]


def _opcodes() -> dict[int, Callable[..., None]]:
    """Return the method for each opcode."""
    table: dict[str, Any] = {}
    for name in _PLAIN:
        table[name] = pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
    for name in _CHECKED:
        table[name] = getattr(PlainUnpickler, f'load_{name.lower()}')
    for name in _REFUSED:
        table[name] = PlainUnpickler.refuse_opcode
    return {getattr(pickle, name)[0]: method for name, method in table.items()}


PlainUnpickler.dispatch = _opcodes()
