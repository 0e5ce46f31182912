"""Reading and checking COCO annotation files."""

from __future__ import annotations

import json
import os.path as osp
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import AnnotationError, is_number, nearest_names
from .annotations import (
    ZERO_SIZE,
    AnnotationSummary,
    require_file,
    shorten,
    unique,
    unreadable,
    unused_boxes,
)


class _Field(NamedTuple):
    """A value that mmdet and pycocotools can use: in words, and as a test."""

    description: str
    is_valid: Callable[[Any], bool]


_ID = _Field('a number or a string', lambda v: isinstance(v, str) or is_number(v))
_NUMBER = _Field('a finite number', lambda v: is_number(v))
_SIZE = _Field('a number above 0', lambda v: is_number(v) and v > 0)
_TEXT = _Field('a string', lambda v: isinstance(v, str) and v != '')
_FLAG = _Field('0 or 1', lambda v: v in (0, 1))
_BOX = _Field(
    '[x, y, width, height], in pixels',
    lambda v: isinstance(v, list) and len(v) == 4 and all(map(is_number, v)),
)
_FIELDS: dict[str, dict[str, _Field]] = {
    'images': dict(id=_ID, file_name=_TEXT, width=_SIZE, height=_SIZE),
    'annotations': dict(
        id=_ID,
        image_id=_ID,
        category_id=_ID,
        bbox=_BOX,
        area=_NUMBER,
        iscrowd=_FLAG,
        ignore=_FLAG,
    ),
    'categories': dict(id=_ID, name=_TEXT),
}
_OPTIONAL = ('iscrowd', 'ignore')


def read_coco(
    ann_file: str, folder: str, classes: Sequence[str], test: bool
) -> AnnotationSummary:
    """Read a COCO json completely and summarise it.

    Args:
        ann_file: The json file.
        folder: Folder of its images.
        classes: Names of the classes of the dataset.
        test: Whether it is for testing, where boxes may be missing.

    Raises:
        AnnotationError: The file is missing, is no json, or lacks a field that mmdet
            reads.
    """
    content = _read_json(ann_file)
    if not isinstance(content, dict):
        raise AnnotationError(
            f'{ann_file} is not in the COCO format',
            expected='an object with images, annotations, categories',
            actual=f'a {type(content).__name__}',
        )
    images = _entries(content, 'images', ann_file)
    if not images:
        raise AnnotationError(f'{ann_file} lists no images')
    boxes = _entries(content, 'annotations', ann_file, optional=test)
    categories = _entries(content, 'categories', ann_file)
    for what, entries in (
        ('images', images),
        ('annotations', boxes),
        ('categories', categories),
    ):
        _check_fields(entries, what, ann_file)
        _check_unique(entries, 'id', what, ann_file)
    used = [entry for entry in categories if entry['name'] in classes]
    _check_unique(used, 'name', 'categories', ann_file)

    paths = tuple(osp.join(folder, image['file_name']) for image in images)
    shapes = [(image['width'], image['height']) for image in images]
    by_id = {image['id']: shape for image, shape in zip(images, shapes, strict=True)}
    names = {entry['id']: entry['name'] for entry in categories}
    reasons = [
        _exclusion_reason(box, by_id.get(box['image_id']), names, classes)
        for box in boxes
    ]
    return AnnotationSummary(
        images=paths,
        boxes=reasons.count(''),
        zero_size=unique(
            str(box['image_id'])
            for box, reason in zip(boxes, reasons, strict=True)
            if reason == ZERO_SIZE
        ),
        names=tuple(entry['name'] for entry in categories),
        images_read=len(images),
        sizes=dict(zip(paths, shapes, strict=True)),
        remarks=unused_boxes(reasons),
        ids=frozenset(by_id),
        without_iscrowd=next(
            (str(box['id']) for box in boxes if 'iscrowd' not in box), ''
        ),
    )


def _exclusion_reason(
    box: dict,
    size: tuple[int, int] | None,
    names: Mapping[Any, str],
    classes: Sequence[str],
) -> str | None:
    """Return why mmdet does not train on a box, as in `CocoDataset.parse_data_info`.

    Returns '' for a box that is used, and None for a box of another class.
    """
    x, y, width, height = box['bbox']
    if size is None:
        return 'of no image'
    if box['category_id'] not in names:
        return 'of no category'
    if names[box['category_id']] not in classes:
        return None
    if box.get('ignore'):
        return 'marked "ignore"'
    if box.get('iscrowd'):
        return 'crowd'
    if width <= 0 or height <= 0:
        return ZERO_SIZE
    if min(x + width, size[0]) <= max(x, 0) or min(y + height, size[1]) <= max(y, 0):
        return 'outside'
    if box['area'] <= 0:
        return 'of area 0'
    return 'under 1 pixel' if width < 1 or height < 1 else ''


def _read_json(path: str) -> Any:
    require_file(path)
    try:
        with open(path, encoding='utf-8') as file:
            return json.load(file)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:  # invalid json or UTF-8
        empty = osp.getsize(path) == 0
        raise AnnotationError(
            f'{path} is {"empty" if empty else "no valid json"}',
            expected='a COCO json',
            actual=f'{osp.getsize(path)} bytes: {error}',
            fix='save the file as UTF-8 without BOM'
            if 'BOM' in str(error)
            else 'copy or unpack the file again: it may be truncated',
        ) from error


def _entries(content: dict, key: str, path: str, optional: bool = False) -> list[dict]:
    entries = content.get(key, [] if optional else None)
    if not isinstance(entries, list):
        raise AnnotationError(
            f'{path} has no list {key!r}',
            expected='an object with images, annotations, categories',
            available=nearest_names(key, content),
        )
    return entries


def _check_fields(entries: Sequence[dict], what: str, path: str) -> None:
    """Raise unless every entry has the fields that mmdet reads, with valid values."""
    fields = _FIELDS[what]
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise AnnotationError(
                f'{path}: {what}[{number}] is no object', actual=shorten(entry)
            )
        for key, field in fields.items():
            if field.is_valid(entry[key]) if key in entry else key in _OPTIONAL:
                continue
            ids = {k: entry[k] for k in ('id', 'image_id') if k in entry and k != key}
            raise AnnotationError(
                f'{path}: {what}[{number}] has no {key!r}'
                if key not in entry
                else f'{path}: {key!r} of {what}[{number}], {shorten(ids)}, is invalid',
                expected=f'{key}: {field.description}, in each of its {what}',
                actual=shorten(entry[key]) if key in entry else None,
                available=[str(name) for name in entry][:8],
            )


def _check_unique(entries: Sequence[dict], key: str, what: str, path: str) -> None:
    """Raise if two entries have the same `key`: one would hide the other."""
    values = [entry[key] for entry in entries]
    if len(set(values)) == len(values):
        return
    value, count = Counter(values).most_common(1)[0]
    raise AnnotationError(
        f'{path}: {count} of its {what} have the same {key}',
        expected=f'a different {key} for each of {len(values)} {what}',
        actual=f'{key}: {shorten(value)}',
    )
