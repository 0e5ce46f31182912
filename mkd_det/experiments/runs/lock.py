"""Locks a folder, so that two commands do not work in it at once."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import ExperimentError
from ...io.paths import check_writable_folder


@contextmanager
def locked_folder(work_dir: Path, what: str) -> Iterator[None]:
    """Hold a lock on a folder, which is created if missing.

    Args:
        work_dir: The folder.
        what: Kind of the experiment, for the error message.

    Raises:
        ExperimentError: Another process holds the lock.
        ConfigError: The folder is not writable.
    """
    check_writable_folder(work_dir, '--work-dir')
    work_dir.mkdir(parents=True, exist_ok=True)
    with open(work_dir / '.lock', 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ExperimentError(
                f'another {what} is running in {work_dir}',
                fix='use --work-dir with another folder, or wait',
            ) from None
        yield
