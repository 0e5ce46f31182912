"""Reads annotation files as mmdet will, and says what is wrong with them."""

from __future__ import annotations

import json
import os.path as osp
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import AnnotationError, nearest
from .sample import evenly

# So many XML files are parsed in about two seconds.
XML_FILES = 10000


@dataclass(frozen=True)
class Listing:
    """What the annotations of one dataset hold.

    Args:
        images: Path of every image.
        boxes: Number of boxes whose category is one of the classes.
        flat: Where boxes have no width or height: an id of an image or the
            path of an annotation file each.
        names: Names of the categories, in the order of the file.
        looked_at: How many images' annotations were read: fewer than there
            are images if only a sample was.
    """

    images: tuple[str, ...]
    boxes: int
    flat: tuple[str, ...]
    names: tuple[str, ...]
    looked_at: int


def read_coco(
    ann_file: str, folder: str, classes: Sequence[str], test: bool
) -> Listing:
    """The listing of a COCO json, which is read whole.

    Args:
        ann_file: The json file.
        folder: Where its images are.
        classes: Names of the classes to be learned.
        test: Whether it is for testing, where boxes may be absent.

    Raises:
        AnnotationError: The file is missing, no json, or lacks what mmdet
            reads from it.
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
    _demand_keys(images, ('id', 'file_name', 'width', 'height'), 'images', ann_file)
    wanted = ('id', 'image_id', 'category_id', 'bbox', 'area')
    _demand_keys(boxes, wanted, 'annotations', ann_file)
    _demand_keys(categories, ('id', 'name'), 'categories', ann_file)

    used = {entry['id'] for entry in categories if entry['name'] in classes}
    # mmdet never sees the boxes of images that are not listed.
    known = {image['id'] for image in images}
    boxes = [
        box
        for box in boxes
        if box['category_id'] in used and box['image_id'] in known
    ]
    return Listing(
        images=tuple(osp.join(folder, image['file_name']) for image in images),
        boxes=len(boxes),
        flat=_unique(str(box['image_id']) for box in boxes if _is_flat(box, ann_file)),
        names=tuple(entry['name'] for entry in categories),
        looked_at=len(images),
    )


def _read_json(path: str) -> Any:
    _demand_file(path)
    try:
        with open(path, encoding='utf-8') as file:
            return json.load(file)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        empty = osp.getsize(path) == 0
        raise AnnotationError(
            f'{path} is {"empty" if empty else "no valid json"}',
            expected='a COCO json',
            actual=f'{osp.getsize(path)} bytes: {error}',
            hint='copy or unpack the file again: it may be cut off',
        ) from error


def _entries(content: dict, key: str, path: str, optional: bool = False) -> list[dict]:
    entries = content.get(key, [] if optional else None)
    if not isinstance(entries, list):
        raise AnnotationError(
            f'{path} has no list {key!r}',
            expected='an object with images, annotations, categories',
            available=nearest(key, content),
        )
    return entries


def _demand_keys(
    entries: Sequence[dict], keys: Sequence[str], what: str, path: str
) -> None:
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise AnnotationError(
                f'{path}: {what}[{number}] is no object', actual=repr(entry)
            )
        for key in keys:
            if key not in entry:
                raise AnnotationError(
                    f'{path}: {what}[{number}] has no {key!r}',
                    expected=f'{", ".join(keys)} in each of its {what}',
                    available=list(entry),
                )


def _is_flat(box: dict, path: str) -> bool:
    """Whether a COCO annotation has no width or height, and counts."""
    try:
        _, _, width, height = box['bbox']
        flat = not (width > 0 and height > 0)
    except (TypeError, ValueError) as error:
        raise AnnotationError(
            f'{path}: annotation {box["id"]} of image {box["image_id"]} has no box',
            expected='bbox: [x, y, width, height], in pixels',
            actual=box['bbox'],
        ) from error
    return flat and not box.get('iscrowd') and not box.get('ignore')


def read_voc(
    ann_file: str,
    root: str,
    classes: Sequence[str],
    image_folder: str = 'JPEGImages',
    xml_folder: str = 'Annotations',
    limit: int = XML_FILES,
) -> Listing:
    """The listing of a Pascal VOC data set.

    Args:
        ann_file: Text file with the id of an image in each line.
        root: Folder that holds the two folders below.
        classes: Names of the classes to be learned.
        image_folder: Name of the folder of images.
        xml_folder: Name of the folder of annotations.
        limit: Of longer lists, so many XML files are parsed, evenly spaced.

    Raises:
        AnnotationError: The list is missing or empty, or an XML file is
            missing or broken.
    """
    _demand_file(ann_file)
    ids = Path(ann_file).read_text(encoding='utf-8').splitlines()
    if not any(ids):
        raise AnnotationError(
            f'{ann_file} lists no images', expected='the id of an image in each line'
        )
    names: dict[str, None] = {}
    flat, boxes = [], 0
    looked_at = evenly(ids, limit)
    for id_ in looked_at:
        path = osp.join(root, xml_folder, f'{id_}.xml')
        for name, is_flat in _read_xml(path):
            names[name] = None
            boxes += name in classes
            if is_flat and name in classes:
                flat.append(path)
    return Listing(
        images=tuple(osp.join(root, image_folder, f'{id_}.jpg') for id_ in ids),
        boxes=boxes,
        flat=_unique(flat),
        names=tuple(names),
        looked_at=len(looked_at),
    )


def _read_xml(path: str) -> list[tuple[str, bool]]:
    """Of each object: its name, and whether its box is flat and counts."""
    _demand_file(path)
    found = []
    try:
        for item in ET.parse(path).getroot().findall('object'):
            box = item.find('bndbox')
            # mmdet cuts coordinates to integers before it looks at the size.
            x1, y1, x2, y2 = (
                int(float(box.find(key).text))  # type: ignore[union-attr, arg-type]
                for key in ('xmin', 'ymin', 'xmax', 'ymax')
            )
            difficult = item.findtext('difficult', '0').strip() not in ('', '0')
            flat = not (x2 > x1 and y2 > y1) and not difficult
            found.append((item.find('name').text or '', flat))  # type: ignore[union-attr]
    except (ET.ParseError, AttributeError, TypeError, ValueError) as error:
        raise AnnotationError(
            f'{path} is no valid Pascal VOC annotation',
            expected='objects with name and bndbox (xmin, ymin, xmax, ymax)',
            actual=error,
        ) from error
    return found


def _demand_file(path: str) -> None:
    """Raise AnnotationError where there is no such file, naming what is."""
    if osp.isfile(path):
        return
    there = Path(path).parent
    while not there.is_dir() and there != there.parent:
        there = there.parent
    shown = nearest(Path(path).name, sorted(p.name for p in there.iterdir()))
    raise AnnotationError(
        f'there is no annotation file {path}',
        expected=f'a file, seen from the folder {osp.abspath("")}',
        actual=f'the folder {there} is there, and holds:',
        available=shown or ('nothing',),
        hint='data_root=... and ann_file=... of the dataset, as they are here',
    )


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
