"""Locks a folder, so that two commands do not work in it at once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError, ExperimentError
from .launched import launched_rank
from .paths import check_writable_folder

# Descriptors of the locks that this process holds.
_held: set[int] = set()


def _close_in_child() -> None:
    """Close the locks in a forked process: a worker must not outlive its training."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def locked_folder(work_dir: Path, what: str) -> Iterator[None]:
    """Hold a lock on a folder, which is created if missing.

    The system releases the lock when the process ends, however it ends. Only the first
    process of several that a launcher starts takes it.

    Args:
        work_dir: The folder.
        what: What runs in it, for the error message.

    Raises:
        ExperimentError: Somebody else holds the lock.
        ConfigError: The folder is not writable.
    """
    if launched_rank():
        yield
        return
    check_writable_folder(work_dir, '--work-dir')
    work_dir.mkdir(parents=True, exist_ok=True)
    descriptor = _open(work_dir / '.lock')
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ExperimentError(
            f'another {what} is running in {work_dir}',
            fix='use --work-dir with another folder, or wait',
        ) from None
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # not in a forked process
            _held.discard(descriptor)
            os.close(descriptor)


def _open(path: Path) -> int:
    """Open a lock file without following a link and without changing its content."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f'{path} cannot be locked',
            expected='a file, or none',
            actual=error.strerror,
            fix=f'remove {path}',
        ) from None
