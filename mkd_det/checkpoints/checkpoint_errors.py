"""Errors of checkpoint files: what is wrong with a file, and what to do."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import BinaryIO

from ..errors import CheckpointFileError, UntrustedCheckpointError, nearest_names
from .addresses import is_web_address
from .archive import DamagedArchiveError

# What a checkpoint begins with: a zip archive, or a pickle.
_BEGINNINGS = (b'P', b'\x80')


def missing_file(path: str) -> CheckpointFileError:
    """Return the error for a file that is not there, with similar names."""
    parent = Path(path).parent
    beside = [p.name for p in parent.glob('*.pth')] if parent.is_dir() else []
    return CheckpointFileError(
        f'checkpoint {path} does not exist',
        expected='a file',
        actual=f'nothing there (looked from {Path.cwd()})',
        available=[str(parent / n) for n in nearest_names(Path(path).name, beside)],
    )


def is_folder(path: str) -> CheckpointFileError:
    """Return the error for a folder in place of a file."""
    return CheckpointFileError(
        f'checkpoint {path} is a folder',
        expected='a file',
        available=sorted(map(str, Path(path).glob('*.pth'))),
    )


def looks_saved(file: BinaryIO) -> bool:
    """Return whether a file begins as torch.save does."""
    return read_head(file)[:1] in _BEGINNINGS


def read_head(file: BinaryIO) -> bytes:
    """Return the first bytes of a file."""
    file.seek(0)
    return file.read(24)


def unreadable(
    file: BinaryIO, path: str, local: str, error: Exception
) -> CheckpointFileError:
    """Return the error for a file that is damaged, or no checkpoint.

    Args:
        file: The file, open.
        path: What the user gave.
        local: Where the file lies.
        error: What was noticed.
    """
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    damaged = isinstance(error, DamagedArchiveError)
    # For other files torch advises to trust them, or its message is a bare number.
    if 'weights_only' in reason or not looks_saved(file):
        reason = f'begins with {read_head(file)!r}'
    size = file.seek(0, os.SEEK_END)
    if local != path:
        fix = f'delete {local}: it is downloaded again'
    elif damaged:
        fix = 'copy or download it again'
    elif is_web_address(path):
        fix = 'the address of the file itself; or download it and give its path'
    else:
        fix = ''
    return CheckpointFileError(
        f'checkpoint {path} is damaged'
        if damaged
        else f'checkpoint {path} cannot be read: it is truncated or no checkpoint',
        expected='a file written by torch.save',
        actual=f'{size} bytes; {reason}',
        fix=fix,
    )


def refused(
    path: str, local: str, error: Exception, may_trust: bool
) -> UntrustedCheckpointError:
    """Return the error for a file that holds more than plain types.

    Args:
        path: What the user gave.
        local: Where the file lies.
        error: What was noticed.
        may_trust: Whether the user has an option to trust the file.
    """
    rewrite = (
        "import torch; c = torch.load('IN', weights_only=False);"
        " torch.save({'state_dict': c.get('state_dict', c)}, 'weights.pth')"
    ).replace('IN', local)
    return UntrustedCheckpointError(
        f'checkpoint {path} holds objects that could run code; it was not loaded',
        expected='tensors, numbers, strings and containers of them',
        actual=str(error),
        fix='trust_checkpoint=True beside `checkpoint`, only if you trust its source'
        if may_trust
        else 'only if you trust its source, write its weights to a file of their own:\n'
        f'python -c {shlex.quote(rewrite)}',
    )
