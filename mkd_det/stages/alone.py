"""Keeps two commands out of one folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..places import check_folder
from .stage import StageError


@contextmanager
def alone(work_dir: Path, what: str) -> Iterator[None]:
    """Be the only one who works in a folder, which is made if need be.

    Args:
        work_dir: The folder.
        what: What is running, for the message.

    Raises:
        StageError: There is somebody already.
        ConfigError: Nothing can be written there.
    """
    check_folder(work_dir, '--work-dir')
    work_dir.mkdir(parents=True, exist_ok=True)
    with open(work_dir / '.lock', 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StageError(
                f'another {what} is running in {work_dir}',
                hint='--work-dir with another folder, or wait',
            ) from None
        yield
