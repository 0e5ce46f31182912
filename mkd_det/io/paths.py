"""Checks of output folders and files, and how paths are printed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ConfigError
from .atomic import create_temporary

# Space in bytes that the logs and configs of a run need.
REQUIRED_BYTES = 2**20


def check_writable_folder(folder: str | Path, what: str) -> None:
    """Raise unless files can be written to a folder, which need not exist yet.

    Writes a file and removes it: permissions alone do not show whether a disk is full
    or read-only.

    Args:
        folder: The folder.
        what: The option that names it, such as '--work-dir', for the message.

    Raises:
        ConfigError: The folder cannot be created or written to.
    """
    if not str(folder).strip():
        raise ConfigError(f'{what} is empty', expected='a folder', fix=f'{what} runs/a')
    folder = Path(folder).absolute()
    if int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))):
        return  # one process checks for all ranks
    try:
        with _created(folder):
            file, probe = create_temporary(folder / 'probe')
            try:
                with file:
                    file.write(bytes(REQUIRED_BYTES))
            finally:
                with suppress(OSError):
                    probe.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f'{what}: cannot write to {folder}',
            expected='a writable folder with free disk space',
            actual=getattr(error, 'strerror', None) or str(error),
            fix=f'give {what} another folder',
        ) from None


def check_output_file(path: str | Path, what: str, *inputs: str | Path) -> None:
    """Raise unless an output file can be written and is no input file.

    Args:
        path: The file.
        what: The option that names it, such as '--out', for the message.
        *inputs: Files that are read.

    Raises:
        ConfigError: The file is one of `inputs`, or cannot be written.
    """
    if not str(path).strip():
        raise ConfigError(f'{what} is empty', expected='a file')
    path = Path(path)
    for given in inputs:
        if path.exists() and Path(given).exists() and path.samefile(given):
            raise ConfigError(
                f'{what}: {path} is an input; writing would destroy it',
                fix=f'give {what} another name',
            )
    if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
        raise ConfigError(
            f'{what}: {path} cannot be written',
            expected='a file',
            actual='a folder' if path.is_dir() else 'a read-only file',
            fix=f'give {what} another name',
        )
    check_writable_folder(path.absolute().parent, what)


def own_file(named: object, folder: str | Path) -> str | None:
    """Return the file of a folder that a note or checkpoint names; None without one.

    Only the last part of the path counts. A folder that was copied or renamed keeps the
    paths of the original, and those must not be followed.

    Args:
        named: The path as it was written.
        folder: The folder.
    """
    name = os.path.basename(named) if isinstance(named, str) else ''
    if name in ('', '.', '..') or '\0' in name:
        return None
    path = os.path.join(folder, name)
    return path if os.path.isfile(path) or os.path.isdir(path) else None


@contextmanager
def _created(folder: Path) -> Iterator[None]:
    """Create the folder and its parents; remove the created ones afterwards."""
    absent = [p for p in (folder, *folder.parents) if not p.exists()]
    created: list[Path] = []
    try:
        for path in reversed(absent):
            path.mkdir(exist_ok=True)
            created.insert(0, path)
        yield
    finally:
        for path in created:
            with suppress(OSError):  # another process has put a file there
                path.rmdir()


def relative_to_cwd(path: str | Path) -> str:
    """Return `path` relative to the current folder if it is inside, else unchanged."""
    here = os.path.relpath(path)
    return str(path) if here.startswith('..') else here
