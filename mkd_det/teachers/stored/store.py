"""The outputs of a teacher's head for each image, in a file: labelled once."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.archive import load_plain
from ...errors import DataError

FORMAT = 'mkd_det soft labels, 1'
# Several processes write to one file: each waits for the others so many seconds.
_PATIENCE = 60.0
_SCHEMA = (
    'CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT)',
    'CREATE TABLE IF NOT EXISTS seen (image TEXT PRIMARY KEY, crc INT, said BLOB)',
)
_HOW = 'mkd-det label TEACHER_CONFIG CHECKPOINT IMAGES --soft --out {path}'


@dataclass(frozen=True)
class About:
    """What a store holds.

    Args:
        head: Type of the head.
        weights: Which weights the teacher has, in words.
        classes: Names of its classes, in the order of its labels.
        strides: Input pixels per cell of each level.
        top_k: Number of rows that are kept of an image.
        pipeline: Hash of the pipeline that the images went through.
    """

    head: str
    weights: str
    classes: tuple[str, ...]
    strides: tuple[int, ...]
    top_k: int
    pipeline: str = ''


@dataclass(frozen=True)
class StoredImage:
    """The most confident rows of a head's output for one image.

    Args:
        rows: Their indices (K,) among all rows of the output, of all levels.
        scores: Class logits (K, C).
        sides: Distances (K, 4) of the boxes' sides (left, top, right, bottom) from the
            centre of the place, in strides of its level.
        bins: Logits of the box distributions (K, 4, B); None for heads without.
        sizes: (h, w) of each level.
        homography: Matrix (3, 3) from pixels of the file to pixels of the input.
        shape: (H, W) of the input without padding.
    """

    rows: Tensor
    scores: Tensor
    sides: Tensor
    bins: Tensor | None
    sizes: tuple[tuple[int, int], ...]
    homography: Tensor
    shape: tuple[int, int]


class OutputStore:
    """A SQLite file with a `StoredImage` for each image, in float16.

    Images are known by the content of their files, so that they may be moved. Nothing
    that is read from the file can run code.

    Args:
        path: The file.

    Attributes:
        about: What it holds.

    Raises:
        DataError: There is no such file, or it is no store.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._keys: dict[str, str] = {}
        if not self.path.is_file():
            raise DataError(
                'there are no soft labels',
                expected='a file that `mkd-det label --soft` has written',
                actual=str(path),
                fix=_HOW.format(path=path),
            )
        try:
            rows = dict(self._select('SELECT name, value FROM about'))
            known = json.loads(rows['about'])
            if rows.get('format') != FORMAT:
                raise ValueError(f'format {rows.get("format")!r}')
            lists = {k: tuple(v) for k, v in known.items() if isinstance(v, list)}
            self.about = About(**{**known, **lists})
        except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f'{path} holds no soft labels',
                expected='a file that `mkd-det label --soft` has written',
                actual=f'{type(error).__name__}: {error}',
                fix=_HOW.format(path='another_file'),
            ) from error

    @classmethod
    def create(cls, path: Path, about: About) -> OutputStore:
        """Make a store, or go on with one of the same teacher.

        Args:
            path: The file.
            about: What it is to hold.

        Raises:
            DataError: The file is there and holds something else.
        """
        if path.exists():
            store = cls(path)
            if store.about != about:
                before, now = asdict(store.about), asdict(about)
                other = [key for key in now if now[key] != before[key]]
                raise DataError(
                    f'{path} holds soft labels that were made in another way',
                    expected=', '.join(f'{key}={now[key]!r}' for key in other),
                    actual=', '.join(f'{key}={before[key]!r}' for key in other),
                    fix='--out another_file',
                )
            return store
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=_PATIENCE)) as file, file:
            for line in _SCHEMA:
                file.execute(line)
            given = [('format', FORMAT), ('about', json.dumps(asdict(about)))]
            file.executemany('INSERT INTO about VALUES (?, ?)', given)
        return cls(path)

    def key(self, path: str) -> str:
        """Return what an image file is known by: a hash of its content.

        Args:
            path: The file; it is read once.

        Raises:
            OSError: It cannot be read.
        """
        if path not in self._keys:
            content = Path(path).read_bytes()
            self._keys[path] = hashlib.blake2b(content, digest_size=16).hexdigest()
        return self._keys[path]

    def has(self, paths: Iterable[str]) -> set[str]:
        """Return those of some image files that the store has.

        Args:
            paths: The files; such as cannot be read are not in it.
        """
        known = {row[0] for row in self._select('SELECT image FROM seen')}
        found = set()
        for path in paths:
            try:
                if self.key(path) in known:
                    found.add(path)
            except OSError:
                continue
        return found

    def read(self, path: str) -> StoredImage:
        """Return what is stored of an image.

        Args:
            path: Its file.

        Raises:
            DataError: The image is not in the store, or its entry is damaged.
        """
        try:
            key = self.key(path)
            rows = self._select('SELECT crc, said FROM seen WHERE image = ?', key)
        except (OSError, sqlite3.Error) as error:
            raise DataError(
                f'the soft labels of {path} cannot be read from {self.path}',
                actual=f'{type(error).__name__}: {error}',
            ) from error
        if not rows:
            raise DataError(
                f'{self.path} has no soft labels of {path}',
                expected='all images of the training',
                actual='no image file of this content',
                fix=f'{_HOW.format(path=self.path)}, which adds images',
            )
        crc, content = rows[0]
        if not isinstance(content, bytes) or zlib.crc32(content) != crc:
            raise DataError(f'{self.path}: the soft labels of {path} are damaged')
        known = load_plain(io.BytesIO(content))
        sizes = tuple((int(h), int(w)) for h, w in known.pop('sizes').tolist())
        height, width = known.pop('shape').tolist()
        return StoredImage(sizes=sizes, shape=(height, width), **known)

    def write(self, images: Mapping[str, StoredImage]) -> None:
        """Store what a teacher said of some images.

        Args:
            images: What it said, by path of the image.
        """
        rows = []
        for path, image in images.items():
            content = {
                field.name: getattr(image, field.name) for field in fields(image)
            }
            content |= {k: torch.tensor(content[k]) for k in ('sizes', 'shape')}
            buffer = io.BytesIO()
            torch.save(content, buffer)
            crc = zlib.crc32(buffer.getvalue())
            rows.append((self.key(path), crc, buffer.getvalue()))
        with closing(sqlite3.connect(self.path, timeout=_PATIENCE)) as file, file:
            file.executemany('INSERT OR REPLACE INTO seen VALUES (?, ?, ?)', rows)

    def __len__(self) -> int:
        return self._select('SELECT COUNT(*) FROM seen')[0][0]

    def _select(self, query: str, *given: Any) -> list[tuple]:
        with closing(sqlite3.connect(self.path, timeout=_PATIENCE)) as file:
            return file.execute(query, given).fetchall()


def as_half(tensor: Tensor) -> Tensor:
    """Return a tensor in float16 on the CPU; what does not fit there stays as it is."""
    half = tensor.detach().to('cpu', torch.float16)
    return half if torch.isfinite(half).all() else tensor.detach().float().cpu()
