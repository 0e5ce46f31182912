"""Exceptions of the user's own code, of metrics and first steps, as typed errors.

What is built from a config is checked before a training, as far as its constructor
goes. A metric, loop, hook, loss or transform that raises later is told with its class,
file and line; the traceback goes into a file.
"""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.runner import BaseLoop

from ..errors import MkdError, OwnCodeError, describe_exception
from .atomic import NO_ROOM

# Packages whose code is not the user's, wherever it lies.
_LIBRARIES = ('mkd_det', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'torch')
_FOLDERS = tuple(sysconfig.get_path(name) for name in ('stdlib', 'purelib', 'platlib'))
# What a wrong value of a config ends with. Running out of memory is none of them.
_OF_VALUES = (
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)
# How an exception of a worker tells where it was raised.
_LINE = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')


@contextmanager
def own_code_errors(folder: str) -> Iterator[None]:
    """Raise exceptions of the user's own code, metrics and first steps as typed errors.

    Args:
        folder: Where the traceback is written.

    Raises:
        OwnCodeError: Such code has raised an exception inside of the context.
    """
    try:
        yield
    except MkdError:
        raise
    except Exception as error:
        place = None
        if not (isinstance(error, OSError) and error.errno in NO_ROOM):
            place = (
                _in_worker(error) or _in_this_process(error) or _in_first_step(error)
            )
        if place is None:
            raise
        name, file, line = place
        code = linecache.getline(file, line).strip()
        what = 'correct it'
        if not _is_own(file):
            what = f'other values for {name} in the config'
        raise OwnCodeError(
            f'{name} has failed: {_in_words(error)}',
            actual=f'{file}, line {line}: {code}',
            fix=f'{what}; {_keep_traceback(error, folder)}',
        ) from error


def _in_this_process(error: Exception) -> tuple[str, str, int] | None:
    """Return name, file and line of the innermost call of such code."""
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        owner: Any = frame.f_locals.get('self')
        module = str(frame.f_globals.get('__name__')).partition('.')[0]
        own = module not in _LIBRARIES and _is_own(code.co_filename)
        if module == 'mkd_det':
            found = None  # called from there, ours has failed
        elif own or isinstance(owner, BaseMetric):
            name = code.co_name if owner is None else type(owner).__name__
            found = name, code.co_filename, line
    return found


def _in_first_step(error: Exception) -> tuple[str, str, int] | None:
    """Return the same for a model whose first step fails by a value of the config."""
    frames = list(traceback.walk_tb(error.__traceback__))
    owners = [(frame.f_locals.get('self'), frame, line) for frame, line in frames]
    first = any(
        isinstance(owner, BaseLoop) and getattr(owner, '_iter', None) == 0
        for owner, *_ in owners
    )
    last = str(frames[-1][0].f_globals.get('__name__')).partition('.')[0]
    if not first or not isinstance(error, _OF_VALUES) or last == 'mkd_det':
        return None
    for owner, frame, line in reversed(owners):
        module = type(owner).__module__.partition('.')[0]
        if module in ('mmdet', 'mmcv', 'mmengine', 'mmpretrain'):
            return type(owner).__name__, frame.f_code.co_filename, line
    return None


def _in_worker(error: Exception) -> tuple[str, str, int] | None:
    """Return the same for an exception of a process that loads data."""
    text = str(error)
    if 'Original Traceback' not in text:
        return None
    own = [found for found in _LINE.findall(text) if _is_own(found[0])]
    return (own[-1][2], own[-1][0], int(own[-1][1])) if own else None


def _is_own(file: str) -> bool:
    path = Path(file)
    inside = any(part in _LIBRARIES for part in path.parts[-4:-1])
    return path.is_file() and not file.startswith(_FOLDERS) and not inside


def _in_words(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    if 'Original Traceback' in str(error):
        return lines[-1].strip()
    return describe_exception(error)


def _keep_traceback(error: Exception, folder: str) -> str:
    """Write the traceback, and return where it is."""
    rank = f'_rank{get_rank()}' if get_rank() else ''
    path = Path(folder, f'traceback{rank}.txt')
    with suppress(OSError):
        path.write_text(''.join(traceback.format_exception(error)), encoding='utf-8')
        return f'the traceback is in {path}'
    return 'add --debug to see the traceback'
