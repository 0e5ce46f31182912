"""Exceptions of the user's own code, and of metrics, as one typed error.

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

from ..errors import MkdError, OwnCodeError, describe_exception
from .atomic import NO_ROOM

# Packages whose code is not the user's, wherever it lies.
_LIBRARIES = ('mkd_det', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'torch')
_FOLDERS = tuple(sysconfig.get_path(name) for name in ('stdlib', 'purelib', 'platlib'))
# How an exception of a worker tells where it was raised.
_LINE = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')


@contextmanager
def own_code_errors(folder: str) -> Iterator[None]:
    """Raise exceptions of the user's own code, and of metrics, as typed errors.

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
            place = _in_worker(error) or _in_this_process(error)
        if place is None:
            raise
        name, file, line = place
        code = linecache.getline(file, line).strip()
        raise OwnCodeError(
            f'{name} has failed: {_in_words(error)}',
            actual=f'{file}, line {line}: {code}',
            fix=('correct it' if _is_own(file) else f'other arguments for {name}')
            + f'; {_keep_traceback(error, folder)}',
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
