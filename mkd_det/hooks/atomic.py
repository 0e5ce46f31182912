"""Files that are there completely or not at all, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from ..errors import CheckpointSaveError


def write_atomically(path: str | Path, data: bytes | memoryview) -> None:
    """Write `data` beside `path`, then let it take the name.

    A kill or a full disk at any moment leaves what was at `path` before.

    Args:
        path: A local file.
        data: Its new content.

    Raises:
        CheckpointSaveError: The file could not be written; nothing of it is
            left, and what was at `path` before is still there.
    """
    path = Path(path)
    # Always the same name: what a kill leaves behind, the next try replaces.
    partial = path.with_name(f'.{path.name}.partial')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        folder = next(p for p in path.absolute().parents if p.is_dir())
        free = shutil.disk_usage(folder).free
        raise CheckpointSaveError(
            f'{path} could not be written: {error.strerror}',
            expected=f'{_mib(len(data))} for this file',
            actual=f'{_mib(free)} free on its disk',
            hint='make room, then start again with --resume: what was saved'
            ' before is still there',
        ) from error


def _mib(size: int) -> str:
    return f'{size / 2**20:.1f} MiB'


@register_backend('atomic', force=True)
class AtomicBackend(LocalBackend):
    """mmengine's local files, but written with `write_atomically`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to `filepath`."""
        write_atomically(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text to `filepath`."""
        write_atomically(filepath, obj.encode(encoding))
