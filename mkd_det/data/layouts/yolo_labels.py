"""Label files of YOLO: `class x y width height`, or a polygon, in shares."""

from __future__ import annotations

import math
from pathlib import Path

from ...errors import AnnotationError
from .content import LabelledBox


def labels_of(image: Path) -> Path:
    """Return the label file of an image: the last `images` in its path is `labels`.

    Args:
        image: Path of the image.
    """
    parts = list(image.with_suffix('.txt').parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == 'images':
            parts[index] = 'labels'
            break
    return Path(*parts)


def read_labels(file: Path, classes: int, width: int, height: int) -> list[LabelledBox]:
    """Return the objects of an image; none where there is no file.

    Args:
        file: The label file.
        classes: Number of classes.
        width: Width of the image, in pixels.
        height: Its height.

    Raises:
        AnnotationError: A line cannot be read.
    """
    if not file.is_file():
        return []
    found = []
    text = file.read_text(encoding='utf-8-sig', errors='replace')
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            label, *values = line.split()
            index, numbers = int(float(label)), [float(v) for v in values]
            if not 0 <= index < classes:
                raise ValueError(f'class {index} of {classes}')
            found.append(_to_box(index, numbers, width, height))
        except (ValueError, OverflowError) as error:
            raise AnnotationError(
                f'{file}: line {number} cannot be read',
                expected=f'class x y width height: a class from 0 to {classes - 1},'
                ' the others as shares of the image; or a class and a polygon',
                actual=f'{line[:60]!r}: {error}',
            ) from error
    return found


def _to_box(label: int, values: list[float], width: int, height: int) -> LabelledBox:
    """Turn centre and size, or the corners of a polygon, into pixels."""
    if not all(map(math.isfinite, values)):
        raise ValueError('not a finite number')
    if len(values) == 4:
        x, y, w, h = values
        box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        return LabelledBox(label, box)
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f'{len(values)} numbers after the class')
    xs, ys = [x * width for x in values[::2]], [y * height for y in values[1::2]]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    polygon = [value for corner in zip(xs, ys, strict=True) for value in corner]
    return LabelledBox(label, box, polygon)
