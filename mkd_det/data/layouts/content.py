"""Annotations in COCO's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import is_number


class LabelledBox(NamedTuple):
    """An object on an image, in pixels.

    Args:
        label: Index of its class.
        box: x, y, width, height.
        polygon: x and y of each corner of its outline; empty where only the box is
            known.
        is_crowd: Whether it is a region to ignore, in training and evaluation.
    """

    label: int
    box: Sequence[float]
    polygon: Sequence[float] = ()
    is_crowd: bool = False


def coco_content(
    images: Sequence[tuple[str, int, int]],
    boxes: Sequence[Sequence[LabelledBox]],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Return annotations in COCO's format.

    Args:
        images: File name, width and height of each image.
        boxes: The objects of each image.
        classes: Class names by label.
    """
    entries: list[dict[str, Any]] = []
    for index, found in enumerate(boxes):
        for one in found:
            entry = {
                'id': len(entries) + 1,
                'image_id': index + 1,
                'category_id': one.label + 1,
                'bbox': list(one.box),
                'area': one.box[2] * one.box[3],
                'iscrowd': int(one.is_crowd),
            }
            if one.polygon:
                entry['segmentation'] = [list(one.polygon)]
                entry['area'] = _polygon_area(one.polygon)
            entries.append(entry)
    return {
        'images': [
            {'id': i + 1, 'file_name': name, 'width': width, 'height': height}
            for i, (name, width, height) in enumerate(images)
        ],
        'annotations': entries,
        'categories': [{'id': i + 1, 'name': name} for i, name in enumerate(classes)],
    }


def is_zero_size(entry: Mapping[str, Any]) -> bool:
    """Return whether a box that counts has no width or no height.

    Args:
        entry: An annotation, perhaps an invalid one.
    """
    box = entry.get('bbox')
    if entry.get('iscrowd') or not isinstance(box, list) or len(box) != 4:
        return False
    return all(map(is_number, box)) and min(box[2:]) <= 0


def _polygon_area(polygon: Sequence[float]) -> float:
    xs, ys = polygon[::2], polygon[1::2]
    following = zip([*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True)
    twice = sum(
        x * next_y - next_x * y
        for x, y, (next_x, next_y) in zip(xs, ys, following, strict=True)
    )
    return abs(twice) / 2
