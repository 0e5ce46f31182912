"""What a teacher said about an image, kept on disk for the next epoch."""

from __future__ import annotations

import hashlib
import io
import os
import sqlite3
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from ..errors import DataError
from ..structures import Level, Levels
from ..taps import Tap

_SCHEMA = 'CREATE TABLE IF NOT EXISTS seen (image TEXT PRIMARY KEY, crc INT, said BLOB)'
# Another process may be writing: wait for it so long, in seconds.
_PATIENCE = 30.0


class TeacherCache:
    """The levels of one teacher by image, in float16, in a SQLite file.

    An image is known by its pixels as they reach the teacher, padding included: what
    changes the pipeline changes the key. The file is named after the teacher's
    weights and taps, so that no other teacher finds it. An entry that is damaged
    is computed again; a folder that cannot be written to is read all the same.

    Args:
        folder: Where the files of all teachers lie.
        model: The teacher.
        taps: What is read from it.

    Raises:
        DataError: `folder` is not a folder and cannot become one.
    """

    def __init__(
        self, folder: str | os.PathLike, model: nn.Module, taps: Mapping[str, Tap]
    ) -> None:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f'the teacher cache {folder} cannot be made',
                expected='a folder, or a place where one can be made',
                actual=str(error),
                fix="teachers.<name>.cache='another/folder', or no `cache`",
            ) from None
        self.path = Path(folder) / f'{_fingerprint(model, taps)}.sqlite'
        self.hits = self.misses = 0
        self.stores = True
        self._said: set[str] = set()

    def run(
        self, images: Tensor, run: Callable[[Tensor], dict[str, Levels]]
    ) -> dict[str, Levels]:
        """Levels by tap: known ones from the file, the others from `run`.

        What is new is rounded to float16 as well, so that the first epoch sees the
        same as the others.

        Args:
            images: A batch (N, 3, H, W), as the teacher wants it.
            run: The teacher, on some of the images.
        """
        keys = [_key(image) for image in images]
        known = self._read(keys)
        missing = [i for i, key in enumerate(keys) if key not in known]
        self.hits += len(keys) - len(missing)
        self.misses += len(missing)
        if missing:
            fresh = run(images[missing])
            added = {keys[i]: _of_image(fresh, n) for n, i in enumerate(missing)}
            self._write(added)
            known.update(added)
        return _as_batch([known[key] for key in keys], images)

    def _read(self, keys: Sequence[str]) -> dict[str, dict[str, Levels]]:
        if not self.path.is_file():
            return {}
        marks = ', '.join('?' * len(keys))
        query = f'SELECT image, crc, said FROM seen WHERE image IN ({marks})'
        try:
            with closing(sqlite3.connect(self.path, timeout=_PATIENCE)) as file:
                rows = file.execute(query, list(keys)).fetchall()
        except sqlite3.DatabaseError as error:
            self._discard(error)
            return {}
        return {
            key: torch.load(io.BytesIO(said), weights_only=True)
            for key, crc, said in rows
            if zlib.crc32(said) == crc
        }

    def _write(self, entries: Mapping[str, dict[str, Levels]]) -> None:
        if not self.stores:
            return
        rows = []
        for key, levels in entries.items():
            buffer = io.BytesIO()
            torch.save(levels, buffer)
            rows.append((key, zlib.crc32(buffer.getvalue()), buffer.getvalue()))
        try:
            with closing(sqlite3.connect(self.path, timeout=_PATIENCE)) as file, file:
                file.execute(_SCHEMA)
                file.executemany('INSERT OR REPLACE INTO seen VALUES (?, ?, ?)', rows)
        except sqlite3.Error as error:
            # Full, read-only, or locked: what is there can still be read.
            self.stores = False
            self._warn(
                f'takes no more ({error}): the teacher runs for images not in it'
            )

    def _discard(self, error: sqlite3.DatabaseError) -> None:
        """Start anew where the file is none; leave it where it is only locked."""
        if isinstance(error, sqlite3.OperationalError):
            self._warn(f'cannot be read now ({error})')
            return
        self._warn(f'is damaged ({error}): made anew')
        try:
            self.path.unlink()
        except OSError:
            self.stores = False

    def _warn(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            MMLogger.get_current_instance().warning(f'teacher cache {self.path} {what}')


def hash_weights(digest: Any, model: nn.Module) -> None:
    """Feed names, shapes, types and numbers of a model to one of `hashlib`'s."""
    for key, value in model.state_dict().items():
        digest.update(f'{key} {tuple(value.shape)} {value.dtype}'.encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())


def _fingerprint(model: nn.Module, taps: Mapping[str, Tap]) -> str:
    """Of the layers, their weights and what is read."""
    digest = hashlib.sha256(str(model).encode())
    hash_weights(digest, model)
    digest.update(str(sorted((name, str(tap)) for name, tap in taps.items())).encode())
    return digest.hexdigest()[:20]


def _key(image: Tensor) -> str:
    """Of the pixels of one image (3, H, W)."""
    pixels = image.detach().cpu().contiguous()
    digest = hashlib.blake2b(str(tuple(pixels.shape)).encode(), digest_size=16)
    digest.update(pixels.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _of_image(levels: Mapping[str, Levels], n: int) -> dict[str, Levels]:
    """The levels of one image, alone, in float16."""

    def cut(level: Level) -> Level:
        if isinstance(level, tuple):
            return tuple(cut(part) for part in level)  # type: ignore[misc]
        one = level[n].detach().to('cpu', copy=True)
        half = one.to(torch.float16)
        # What float16 cannot hold stays as it is.
        return half if torch.isfinite(half).all() else one

    return {tap: tuple(map(cut, row)) for tap, row in levels.items()}


def _as_batch(
    images: Sequence[Mapping[str, Levels]], like: Tensor
) -> dict[str, Levels]:
    """The levels of all images together, on the device of `like`."""

    def join(parts: Sequence[Level]) -> Level:
        if isinstance(parts[0], tuple):
            return tuple(map(join, zip(*parts, strict=True)))  # type: ignore[arg-type]
        # Where one did not fit into float16, the types differ.
        tensors: Any = [part.to(like.dtype) for part in parts]  # type: ignore
        return torch.stack(tensors).to(like.device)

    return {
        tap: tuple(map(join, zip(*(image[tap] for image in images), strict=True)))
        for tap in images[0]
    }
