"""Finds images without labels that are also labelled, or that results are read from."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...errors import DataError


def same_images(first: Iterable[str], second: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of files of equal content, one of each side.

    Args:
        first: Paths of files.
        second: Likewise. Files of a size that the other side lacks are not read.
    """
    sizes: dict[int, list[str]] = defaultdict(list)
    for path in second:
        sizes[_size(path)].append(path)
    sizes.pop(-1, None)
    known: dict[int, dict[bytes, list[str]]] = {}

    def by_content(size: int) -> dict[bytes, list[str]]:
        if size not in known:
            known[size] = defaultdict(list)
            for path in sizes[size]:
                known[size][_digest(path)].append(path)
        return known[size]

    return [
        (path, other)
        for path in first
        if (size := _size(path)) in sizes
        for other in by_content(size).get(_digest(path), ())
    ]


def _digest(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


def check_overlap(
    unlabelled: Sequence[str],
    labelled: Sequence[str],
    measured: Sequence[str],
    strict: bool,
) -> list[str]:
    """Compare images without labels with those that have labels.

    Args:
        unlabelled: Paths of images without labels.
        labelled: Paths of the labelled training images.
        measured: Paths of validation and test images.
        strict: Whether an image that results are measured on is an error.

    Returns:
        What was found, in words; '' where the images differ.

    Raises:
        DataError: `strict`, and there is a validation or test image.
    """
    remarks = []
    twice = same_images(unlabelled, labelled)
    if twice:
        remarks.append(
            f'{len(twice)} of {len(unlabelled)} images without labels are labelled'
            f' training images as well, the first is {twice[0][0]}'
        )
    leaked = same_images(unlabelled, measured)
    if leaked and strict:
        names = [os.path.abspath(path) for path, _ in leaked[:3]]
        raise DataError(
            f'{len(leaked)} images without labels are images that results are measured'
            ' on',
            actual=f'{leaked[0][0]} is {leaked[0][1]}',
            fix=f'UnlabeledImages(exclude={names!r}, ...), with '
            + ('all of them' if len(leaked) > len(names) else 'these')
            + ', or with a list, json or folder of validation and test images;'
            ' or strict=False, and results on them are no test any more',
        )
    if leaked:
        remarks.append(
            f'{len(leaked)} of {len(unlabelled)} images without labels are images that'
            f' results are measured on, the first is {leaked[0][0]}: figures on them'
            ' are no test of images that were never seen'
        )
    return remarks


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return -1
