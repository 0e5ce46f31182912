"""Folders and paths: whether files can be written there, and how they are told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ConfigError

# What logs and configs of a run need, in bytes.
ROOM = 2**20


def check_writable_folder(folder: str | Path, what: str) -> None:
    """Raise unless files can be written into a folder, which may not be there yet.

    A file is written and taken away again: permissions alone do not tell about full
    and read-only disks.

    Args:
        folder: The folder.
        what: What names it for the user, as '--work-dir'.

    Raises:
        ConfigError: It cannot be made, or nothing can be written into it.
    """
    if not str(folder).strip():
        raise ConfigError(f'{what} is empty', expected='a folder', fix=f'{what} runs/a')
    folder = Path(folder).absolute()
    if int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))):
        return  # one process tries for all
    try:
        with _made(folder):
            probe = folder / f'.{os.getpid()}.probe'
            try:
                probe.write_bytes(bytes(ROOM))
            finally:
                with suppress(OSError):
                    probe.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f'{what}: nothing can be written into {folder}',
            expected='a folder with some room, or a place where one can be made',
            actual=getattr(error, 'strerror', None) or str(error),
            fix=f'{what} with another folder',
        ) from None


def check_output_file(path: str | Path, what: str, *inputs: str | Path) -> None:
    """Raise unless a file can be written that is none of those to be read.

    Args:
        path: The file.
        what: What names it for the user, as '--out'.
        *inputs: Files that are read.

    Raises:
        ConfigError: It is one of them, or cannot be written.
    """
    if not str(path).strip():
        raise ConfigError(f'{what} is empty', expected='a file')
    path = Path(path)
    for given in inputs:
        if path.exists() and Path(given).exists() and path.samefile(given):
            raise ConfigError(
                f'{what}: {path} is what is read; writing would destroy it',
                fix=f'{what} with another name',
            )
    if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
        raise ConfigError(
            f'{what}: {path} cannot be written',
            expected='a file',
            actual='a folder' if path.is_dir() else 'a file that may not be changed',
            fix=f'{what} with another name',
        )
    check_writable_folder(path.absolute().parent, what)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder, for a while: what was not there before is taken away again."""
    absent = [p for p in (folder, *folder.parents) if not p.exists()]
    made: list[Path] = []
    try:
        for path in reversed(absent):
            path.mkdir(exist_ok=True)
            made.insert(0, path)
        yield
    finally:
        for path in made:
            with suppress(OSError):  # somebody else has put a file there
                path.rmdir()


def relative_to_cwd(path: str | Path) -> str:
    """A path from the folder we are in, if it lies there."""
    here = os.path.relpath(path)
    return str(path) if here.startswith('..') else here
