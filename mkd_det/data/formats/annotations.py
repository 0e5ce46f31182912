"""What annotation files hold, in a form that all formats share."""

from __future__ import annotations

import os
import os.path as osp
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ...errors import AnnotationError, nearest_names

# Why a box is not used for training: its width or height is 0.
ZERO_SIZE = 'without width or height'


@dataclass(frozen=True)
class AnnotationSummary:
    """Summary of the annotations of a dataset.

    Args:
        images: Path of every image.
        boxes: Number of boxes that mmdet trains on.
        zero_size: Where boxes have no width or height: image ids, or paths of
            annotation files.
        names: Names of the categories, in the order of the file.
        images_read: Number of images whose annotations were read. It is smaller than
            the number of images where only a sample was read.
        sizes: Width and height of images according to the annotations, by path.
        remarks: Things that are valid but may be unexpected.
        ids: Ids of the images, as a metric uses them.
        without_iscrowd: Id of an annotation without "iscrowd", which pycocotools needs;
            '' if all have it.
    """

    images: tuple[str, ...]
    boxes: int
    zero_size: tuple[str, ...]
    names: tuple[str, ...]
    images_read: int
    sizes: Mapping[str, tuple[int, int]]
    remarks: tuple[str, ...]
    ids: frozenset = frozenset()
    without_iscrowd: str = ''


def unused_boxes(reasons: Sequence[str | None]) -> tuple[str, ...]:
    """Return a remark about boxes that mmdet does not train on, if there are any.

    Args:
        reasons: For each box why it is not used; '' if it is used, None if it is of no
            class of the dataset.
    """
    counts = Counter(reason for reason in reasons if reason)
    total = sum(reason is not None for reason in reasons)
    listed = ', '.join(f'{count} {why}' for why, count in counts.most_common(8))
    if not counts:
        return ()
    return (f'{sum(counts.values())} of {total} boxes are not used: {listed}',)


def require_file(path: str, where: str = '') -> None:
    """Raise AnnotationError if a file is missing, with the files that exist nearby.

    Args:
        path: The file.
        where: Where it is named, at the start of the message.
    """
    if osp.isfile(path):
        return
    folder, missing = Path(path).parent, Path(path).name
    while not osp.isdir(folder) and folder != folder.parent:
        folder, missing = folder.parent, folder.name
    try:
        names = sorted(os.listdir(folder)) if osp.isdir(folder) else []
    except OSError:  # no permission to look into it
        names = []
    if folder == Path(path).parent and folder not in (Path(), Path('/')):
        shown = nearest_names(Path(path).name, names)
    else:
        # A folder higher up may hold many unrelated files: show similar names only.
        close = [get_close_matches(n, names, 3) for n in (missing, Path(path).name)]
        shown = [*close[0], *close[1]]
    raise AnnotationError(
        f'{where}there is no annotation file {path}',
        expected=f'a file; relative paths start at {osp.abspath("")}',
        actual=f'the folder {folder} exists' + (' and contains:' if shown else ''),
        available=unique(shown),
        fix='correct data_root and ann_file of the dataset',
    )


def unreadable(path: str, error: OSError) -> AnnotationError:
    """Return the error for an annotation file that cannot be opened.

    Args:
        path: The file.
        error: Why.
    """
    return AnnotationError(
        f'{path} cannot be read',
        expected='an annotation file',
        actual=error.strerror,
        fix=f'chmod +r {path}' if isinstance(error, PermissionError) else '',
    )


def shorten(value: Any) -> str:
    """Return the repr of `value`, cut after 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else f'{text[:100]}...'


def list_names(names: Iterable[str], limit: int = 8) -> str:
    """Return names as a tuple in Python's syntax, at most `limit` of them."""
    names = tuple(names)
    rest = f', ... {len(names) - limit} more' if len(names) > limit else ''
    return '(' + ', '.join(repr(name) for name in names[:limit]) + rest + ')'


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names without repetitions, in order."""
    return tuple(dict.fromkeys(names))
