"""Files that are there completely or not at all, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from ..errors import CheckpointSaveError

# A full disk, a used-up quota, a file that is larger than files may be.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: str | Path, data: bytes | memoryview) -> None:
    """Write `data` beside `path`, then let it take the name.

    A kill or a full disk at any moment leaves what was at `path` before. A link stays
    a link, and a file keeps its permissions.

    Args:
        path: A local file.
        data: Its new content.

    Raises:
        CheckpointSaveError: The file could not be written; nothing of it is
            left, and what was at `path` before is still there.
    """
    try:
        _write(Path(os.path.realpath(path)), data)
    except (OSError, ValueError) as error:
        raise _not_saved(Path(path), len(data), error) from error


def _write(path: Path, data: bytes | memoryview) -> None:
    # Two processes may write one file; each has a partial one of its own.
    partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_torn(path)
        with open(partial, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.is_file():
            shutil.copymode(path, partial)
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _remove_torn(path: Path) -> None:
    """Take away what killed processes have left of this file."""
    pattern = re.compile(rf'\.{re.escape(path.name)}\.(\d+)\.partial')
    for beside in path.parent.iterdir():
        torn = pattern.fullmatch(beside.name)
        if torn and not _runs(int(torn[1])):
            with suppress(OSError):
                beside.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def _not_saved(path: Path, size: int, error: Exception) -> CheckpointSaveError:
    reason = getattr(error, 'strerror', None) or str(error)
    if getattr(error, 'errno', None) not in NO_ROOM:
        return CheckpointSaveError(
            f'{path} could not be written: {reason}',
            expected='a name for a file, in a folder that can be written to',
            fix='another folder or name; what was saved before is still there',
        )
    folder = next(p for p in path.absolute().parents if p.is_dir())
    return CheckpointSaveError(
        f'{path} could not be written: {reason}',
        expected=f'{_mib(size)} for this file',
        actual=f'{_mib(shutil.disk_usage(folder).free)} free on its disk',
        fix='make room, then start again (a training: with --resume): what was saved'
        ' before is still there',
    )


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
