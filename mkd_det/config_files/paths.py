"""Paths in configs: looked up in both places where people expect them.

mmengine looks for a `_base_` beside the config that names it, and everything else is
opened from the current folder. What is not in the one place is taken from the other,
and what was taken is said.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config

# Keys of a config that name a file to read: of teachers, of `init_cfg`, of chains.
_FILE_KEYS = ('cfg', 'checkpoint', 'load_from')
# Lines that this process has printed.
_said: set[str] = set()


@contextmanager
def bases_in_both_places() -> Iterator[None]:
    """Let mmengine look for a `_base_` in the current folder, too, while it reads.

    A file beside the config that names it comes first, as in mmengine.
    """
    original = Config._get_cfg_path

    @functools.wraps(original)
    def found(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = original(cfg_path, filename)
        if '::' in cfg_path or not os.path.isfile(cfg_path):
            return path, scope
        of = f'_base_ of {_shown(filename)}: {cfg_path}'
        if not os.path.isfile(path):
            _say(f'{of} is not beside it; taken from the current folder')
            return os.path.abspath(cfg_path), scope
        if not os.path.samefile(path, cfg_path):
            _say(f'{of} is taken from beside it; another is in the current folder')
        return path, scope

    Config._get_cfg_path = staticmethod(found)
    try:
        yield
    finally:
        Config._get_cfg_path = staticmethod(original)


def find_named_files(value: Any, folder: str | Path, where: str = '') -> None:
    """Replace paths of a config that are not there from the current folder.

    Args:
        value: The config, or a part of it; it is changed. Keys called 'cfg',
            'checkpoint' and 'load_from' are looked at.
        folder: Folder of the config file.
        where: Path of the part in the config, for the lines that are printed.
    """
    if isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            find_named_files(inner, folder, f'{where}.{index}')
    if not isinstance(value, (Mapping, Config)):
        return
    for key, inner in list(value.items()):
        name = f'{where}.{key}'.lstrip('.')
        if key not in _FILE_KEYS or not isinstance(inner, (str, os.PathLike)):
            find_named_files(inner, folder, name)
        elif isinstance(value, (MutableMapping, Config)):
            found = find_file(str(inner), folder, name)
            if found != str(inner):
                value[key] = found


def find_file(path: str, folder: str | Path, what: str) -> str:
    """Return a path as it is opened from the current folder.

    Args:
        path: As a config names it: a file, an address, or a packaged config.
        folder: Folder of the config.
        what: What names it, for the line that is printed.

    Returns:
        The path; that of the file beside the config if the current folder has none.
    """
    if not path or '::' in path or '://' in path or os.path.isabs(path):
        return path
    beside = _shown(os.path.join(folder, path))
    if not os.path.isfile(beside):
        return path
    if not os.path.exists(path):
        _say(f'{what}: {path} is not in the current folder; taken: {beside}')
        return beside
    if not os.path.samefile(path, beside):
        _say(f'{what}: {path} is taken from the current folder, not {beside}')
    return path


def _shown(path: str) -> str:
    """Return a path relative to the current folder where it is inside."""
    relative = os.path.relpath(path)
    return path if relative.startswith('..') else relative


def _say(line: str) -> None:
    """Print a line once, on the first of several processes."""
    if line not in _said:
        _said.add(line)
        if not int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))):
            print(line, flush=True)
