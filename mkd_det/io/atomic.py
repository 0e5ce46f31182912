"""Atomic writing: a file is complete or unchanged, also after a kill or a full disk."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from mmengine.fileio import LocalBackend, register_backend

from ..errors import CheckpointSaveError

# Full disk, quota exceeded, file too large for the file system.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: str | Path, data: bytes | memoryview) -> None:
    """Write `data` to a temporary file beside `path`, then rename it to `path`.

    If the process is killed or the disk is full, `path` keeps its previous content.
    Symbolic links and file permissions are kept.

    Args:
        path: A local file.
        data: Its new content.

    Raises:
        CheckpointSaveError: The file could not be written. The temporary file is
            removed and `path` keeps its previous content.
    """
    try:
        _write(Path(os.path.realpath(path)), data)
    except (OSError, ValueError) as error:
        raise _not_saved(Path(path), len(data), error) from error


def write_own(path: str | Path, data: bytes | memoryview) -> None:
    """Write a file of a run's own folder; a link in its place is replaced.

    In a folder that was copied with its links (`cp -rs`), the file behind a link is of
    another run, or of anybody.

    Args:
        path: A local file.
        data: Its new content.

    Raises:
        CheckpointSaveError: The file could not be written.
    """
    drop_link(Path(path))
    write_atomically(path, data)


def drop_link(path: Path) -> None:
    """Remove a symbolic link, not what it names; anything else stays."""
    with suppress(OSError):
        if path.is_symlink():
            path.unlink()


def create_temporary(path: Path) -> tuple[BinaryIO, Path]:
    """Create a hidden file beside `path`, under a name that nobody can foresee.

    A link or file that somebody has put there is never followed or overwritten.

    Args:
        path: The file that the temporary one will become.

    Returns:
        The file, open for reading and writing, and its path.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, 'O_NOFOLLOW', 0) | getattr(os, 'O_BINARY', 0)
    name = f'{_prefix(path)}{os.getpid()}-{secrets.token_hex(8)}.partial'
    temporary = path.with_name(name)
    return os.fdopen(os.open(temporary, flags, 0o666), 'w+b'), temporary


def _prefix(path: Path) -> str:
    """Return how temporary files of `path` begin that this machine has made."""
    machine = zlib.crc32(socket.gethostname().encode())
    # File systems take names of 255 bytes.
    name = os.fsencode(path.name)[:150].decode(errors='ignore')
    return f'.{name}.{machine:08x}-'


def _write(path: Path, data: bytes | memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    file, temporary = create_temporary(path)
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.is_file():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of `path` that killed processes left behind."""
    pattern = re.compile(rf'{re.escape(_prefix(path))}(\d+)-[0-9a-f]+\.partial')
    for beside in path.parent.iterdir():
        leftover = pattern.fullmatch(beside.name)
        if leftover and not _is_running(int(leftover[1])):
            with suppress(OSError):
                beside.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it runs, under another user
    return True


def _not_saved(path: Path, size: int, error: Exception) -> CheckpointSaveError:
    reason = getattr(error, 'strerror', None) or str(error)
    if getattr(error, 'errno', None) not in NO_ROOM:
        return CheckpointSaveError(
            f'{path} could not be written: {reason}',
            expected='a file name in a writable folder',
            fix='choose another folder or name; the previous file is unchanged',
        )
    folder = next(p for p in path.absolute().parents if p.is_dir())
    return CheckpointSaveError(
        f'{path} could not be written: {reason}',
        expected=f'{_mib(size)} of free space',
        actual=f'{_mib(shutil.disk_usage(folder).free)} free',
        fix='free some disk space and start again (a training with --resume); the'
        ' previous file is unchanged',
    )


def _mib(size: int) -> str:
    return f'{size / 2**20:.1f} MiB'


@register_backend('atomic', force=True)
class AtomicBackend(LocalBackend):
    """mmengine's local file backend, writing with `write_own`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to `filepath`."""
        write_own(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text to `filepath`."""
        write_own(filepath, obj.encode(encoding))
