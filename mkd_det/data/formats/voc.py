"""Reading and checking Pascal VOC annotation files."""

from __future__ import annotations

import os.path as osp
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import NamedTuple

from ...errors import AnnotationError
from .annotations import (
    ZERO_SIZE,
    AnnotationSummary,
    require_file,
    shorten,
    unique,
    unreadable,
    unused_boxes,
)
from .sampling import evenly_spaced

# Parsing this many XML files takes about two seconds.
MAX_XML_FILES = 10000


class _Object(NamedTuple):
    name: str
    width: int
    height: int
    difficult: bool


def read_voc(
    ann_file: str,
    root: str,
    classes: Sequence[str],
    image_folder: str = 'JPEGImages',
    xml_folder: str = 'Annotations',
    min_size: float = 0,
    limit: int = MAX_XML_FILES,
) -> AnnotationSummary:
    """Read the annotations of a Pascal VOC dataset and summarise them.

    Args:
        ann_file: Text file with an image id per line.
        root: Folder of the two folders below.
        classes: Names of the classes of the dataset.
        image_folder: Name of the folder of images.
        xml_folder: Name of the folder of annotations.
        min_size: Boxes with fewer pixels in width or height are ignored
            (`bbox_min_size`).
        limit: Maximum number of XML files to read; of longer lists an evenly spaced
            sample is read.

    Raises:
        AnnotationError: The list is missing or empty, or an XML file is missing or
            invalid.
    """
    ids = _read_ids(ann_file)
    names: dict[str, None] = {}
    sizes = {}
    zero_size: list[str] = []
    reasons: list[str] = []
    empty = 0
    sample = evenly_spaced(list(enumerate(ids, 1)), limit)
    for line, id_ in sample:
        path = osp.join(root, xml_folder, f'{id_}.xml')
        require_file(path, f'line {line} of {ann_file}: ')
        objects, size = _read_xml(path)
        if size is not None:
            sizes[osp.join(root, image_folder, f'{id_}.jpg')] = size
        empty += not objects
        for item in objects:
            names[item.name] = None
            reason = f'called {item.name!r}'
            if item.name in classes:
                reason = _exclusion_reason(item, min_size)
            if reason == ZERO_SIZE:
                zero_size.append(path)
            reasons.append(reason)
    repeated = len(ids) - len(set(ids))
    remarks = [
        f'{empty} annotation files hold no object' if empty else '',
        f'{repeated} images are listed twice' if repeated else '',
    ]
    return AnnotationSummary(
        images=tuple(osp.join(root, image_folder, f'{id_}.jpg') for id_ in ids),
        boxes=reasons.count(''),
        zero_size=unique(zero_size),
        names=tuple(names),
        images_read=len(sample),
        sizes=sizes,
        remarks=unused_boxes(reasons) + tuple(remark for remark in remarks if remark),
    )


def _read_ids(path: str) -> list[str]:
    """Return the ids in a list of images, as mmdet reads them."""
    require_file(path)
    try:
        with open(path, encoding='utf-8') as file:
            ids = [line.rstrip('\n\r') for line in file]
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f'{path} is no UTF-8 text',
            expected='an image id in each line',
            actual=error,
        ) from error
    if not any(ids):
        raise AnnotationError(
            f'{path} lists no images', expected='an image id in each line'
        )
    for number, id_ in enumerate(ids, 1):
        # A longer line is a sign of another kind of file.
        if not id_ or id_ != id_.strip(' \t\ufeff') or len(id_) > 1000:
            raise AnnotationError(
                f'{path}: line {number} is no image id',
                expected='the name of its annotation file, without .xml',
                actual=shorten(id_),
                fix='remove empty lines, spaces around ids, and the byte order mark',
            )
    return ids


def _exclusion_reason(item: _Object, min_size: float) -> str:
    """Return why mmdet does not train on an object, as in `XMLDataset`; '' if used."""
    if item.difficult:
        return 'difficult'
    if item.width <= 0 or item.height <= 0:
        return ZERO_SIZE
    small = min(item.width, item.height) < min_size
    return f'under {min_size:g} pixels' if small else ''


def _read_xml(path: str) -> tuple[list[_Object], tuple[int, int] | None]:
    """Return the objects of an annotation file, and width and height of the image."""
    found = []
    try:
        root = ET.parse(path).getroot()
        # Where the file gives no size, mmdet uses that of the image.
        size = root.find('size')
        shape = None
        if size is not None:
            shape = (_integer(size, 'width'), _integer(size, 'height'))
        for item in root.findall('object'):
            box = item.find('bndbox')
            # mmdet truncates coordinates to integers before it computes the size.
            x1, y1, x2, y2 = (
                int(float(box.find(key).text))  # type: ignore[union-attr, arg-type]
                for key in ('xmin', 'ymin', 'xmax', 'ymax')
            )
            hard = item.find('difficult') is not None and _integer(item, 'difficult')
            name = item.find('name').text or ''  # type: ignore[union-attr]
            found.append(_Object(name, x2 - x1, y2 - y1, bool(hard)))
    except OSError as error:
        raise unreadable(path, error) from error
    except (
        ET.ParseError,
        AttributeError,
        LookupError,  # unknown encoding
        OverflowError,  # infinite coordinate
        TypeError,
        ValueError,
    ) as error:
        raise AnnotationError(
            f'{path} is no valid Pascal VOC annotation',
            expected='objects with name and bndbox (xmin, ymin, xmax, ymax), in'
            ' pixels; difficult: 0 or 1; size with width and height',
            actual=error,
        ) from error
    return found, shape


def _integer(element: ET.Element, key: str) -> int:
    """Return the integer in a child of `element`, as mmdet reads it."""
    return int(element.find(key).text)  # type: ignore[union-attr, arg-type]
