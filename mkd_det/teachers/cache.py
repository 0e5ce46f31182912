"""Keeps the outputs of a teacher for each image on disk, for the next epoch."""

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

from ..checkpoints.archive import load_plain
from ..errors import DataError
from ..structures import Level, Levels
from ..taps import Tap

_SCHEMA = 'CREATE TABLE IF NOT EXISTS seen (image TEXT PRIMARY KEY, crc INT, said BLOB)'
# Another process may be writing: wait for it for so many seconds. What could not be
# read or stored is computed again, so a long wait gains nothing.
PATIENCE = 1.0
# After so many waits in a row, the file counts as locked for good.
MAX_WAITS = 3


class TeacherCache:
    """The outputs of one teacher for each image, in float16, in a SQLite file.

    The key of an image is its pixels as they reach the teacher, padding included, and
    its size without padding, which models with masks (DETR) see: a changed pipeline
    changes the key. The file is named after the teacher's weights and
    taps, so another teacher does not find it. A damaged entry is computed again; a
    folder that cannot be written to is read nevertheless.

    Args:
        folder: Folder of the files of all teachers.
        model: The teacher.
        taps: What is read from it.
        engine: What else its outputs depend on, such as the way it is computed.

    Attributes:
        path: The file.
        hits: Images that were found.
        misses: Images that were computed.

    Raises:
        DataError: `folder` is no folder and cannot be created.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        model: nn.Module,
        taps: Mapping[str, Tap],
        engine: str = '',
    ) -> None:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f'the teacher cache {folder} cannot be created',
                expected='a folder, or a place where one can be created',
                actual=str(error),
                fix="teachers.<name>.cache='another/folder', or no `cache`",
            ) from None
        self.path = Path(folder) / f'{_fingerprint(model, taps, engine)}.sqlite'
        self.hits = self.misses = 0
        # Anything else than a file (a pipe, a folder) is left alone.
        self._usable = self.path.is_file() or not os.path.lexists(self.path)
        self._stores = self._usable
        self._waits = 0
        self._warned: set[str] = set()

    def run(
        self,
        images: Tensor,
        run: Callable[..., dict[str, Levels]],
        samples: Sequence[Any] | None = None,
    ) -> dict[str, Levels]:
        """Return levels by tap, from the file where it has them, else from `run`.

        New levels are rounded to float16, too, so that the first epoch sees the same
        as the others.

        Args:
            images: A batch (N, 3, H, W), as the teacher wants it.
            run: The teacher, on some of the images and, where there are samples, the
                samples of those.
            samples: A data sample for each image.
        """
        keys = [
            _key(image, None if samples is None else samples[n])
            for n, image in enumerate(images)
        ]
        known = self._read(keys)
        missing = [i for i, key in enumerate(keys) if key not in known]
        self.hits += len(keys) - len(missing)
        self.misses += len(missing)
        if missing:
            some = () if samples is None else ([samples[i] for i in missing],)
            fresh = run(images[missing], *some)
            added = {keys[i]: _of_image(fresh, n) for n, i in enumerate(missing)}
            self._write(added)
            known.update(added)
        return _as_batch([known[key] for key in keys], images)

    def _read(self, keys: Sequence[str]) -> dict[str, dict[str, Levels]]:
        if not self._usable or not self.path.is_file():
            return {}
        marks = ', '.join('?' * len(keys))
        query = f'SELECT image, said FROM seen WHERE image IN ({marks})'
        try:
            with closing(sqlite3.connect(self.path, timeout=PATIENCE)) as file:
                rows = file.execute(query, list(keys)).fetchall()
        except sqlite3.OperationalError as error:
            if not self._wait_again(error):
                self._warn(f'cannot be read now ({error})')
            return {}
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
            return {}
        entries = {key: _load(content) for key, content in rows}
        return {key: levels for key, levels in entries.items() if levels is not None}

    def _write(self, entries: Mapping[str, dict[str, Levels]]) -> None:
        if not self._stores:
            return
        rows = []
        for key, levels in entries.items():
            buffer = io.BytesIO()
            torch.save(levels, buffer)
            rows.append((key, zlib.crc32(buffer.getvalue()), buffer.getvalue()))
        try:
            with closing(sqlite3.connect(self.path, timeout=PATIENCE)) as file, file:
                file.execute(_SCHEMA)
                file.executemany('INSERT OR REPLACE INTO seen VALUES (?, ?, ?)', rows)
        except sqlite3.Error as error:
            if self._wait_again(error):
                return
            # Full or read-only: it can still be read.
            self._stores = False
            self._warn(
                f'takes no more ({error}): the teacher runs for images not in it'
            )
        else:
            self._waits = 0

    def _wait_again(self, error: sqlite3.Error) -> bool:
        """Return whether the file was locked, which another process may end.

        Once it has been locked too often, it is not used any more.
        """
        if 'locked' not in str(error) or not self._usable:
            return False
        self._waits += 1
        if self._waits >= MAX_WAITS:
            self._usable = self._stores = False
            self._warn(f'is locked by another process ({error}): it is not used')
        return True

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        """Rename a file that is no database; nothing is deleted."""
        aside = self.path.with_name(f'{self.path.name}.damaged')
        self._warn(f'is damaged ({error}): it is renamed to {aside.name}')
        try:
            os.replace(self.path, aside)
        except OSError:
            self._usable = self._stores = False

    def _warn(self, what: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            MMLogger.get_current_instance().warning(f'teacher cache {self.path} {what}')


def hash_weights(digest: Any, model: nn.Module) -> None:
    """Feed names, shapes, types and numbers of a model to one of `hashlib`'s."""
    for key, value in model.state_dict().items():
        digest.update(f'{key} {tuple(value.shape)} {value.dtype}'.encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())


def _fingerprint(model: nn.Module, taps: Mapping[str, Tap], engine: str) -> str:
    """Return a hash of the layers, their weights, what is read, and how."""
    digest = hashlib.sha256(str(model).encode())
    hash_weights(digest, model)
    digest.update(str(sorted((name, str(tap)) for name, tap in taps.items())).encode())
    digest.update(engine.encode())
    return digest.hexdigest()[:20]


def _key(image: Tensor, sample: Any = None) -> str:
    """Return a hash of one image (3, H, W) and, if its sample says, what is no padding.

    Args:
        image: The image.
        sample: Its data sample.
    """
    pixels = image.detach().cpu().contiguous()
    inner = getattr(sample, 'img_shape', None)
    shapes = f'{tuple(pixels.shape)} {tuple(inner) if inner else ""}'
    digest = hashlib.blake2b(shapes.encode(), digest_size=16)
    digest.update(pixels.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _load(content: Any) -> dict[str, Levels] | None:
    """Return the levels of an entry; None if it is damaged (it has checksums)."""
    try:
        levels = load_plain(io.BytesIO(content))
    except Exception:  # damaged pickles raise nearly anything
        return None
    return levels if isinstance(levels, dict) else None


def _of_image(levels: Mapping[str, Levels], n: int) -> dict[str, Levels]:
    """Return the levels of one image in float16."""

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
    """Return the levels of all images together, on the device of `like`."""

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
