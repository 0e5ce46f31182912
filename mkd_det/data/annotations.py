"""Reads annotation files as mmdet will, and says what is wrong with them."""

from __future__ import annotations

import json
import os.path as osp
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import AnnotationError, is_number, nearest_names
from .sample import evenly_spaced

# So many XML files are parsed in about two seconds.
XML_FILES = 10000
FLAT = 'without width or height'

# What mmdet and pycocotools can work with, in words, and how to tell.
Kind = tuple[str, Callable[[Any], bool]]
_ID: Kind = ('a number or a string', lambda v: isinstance(v, str) or is_number(v))
_NUMBER: Kind = ('a finite number', lambda v: is_number(v))
_SIZE: Kind = ('a number above 0', lambda v: is_number(v) and v > 0)
_TEXT: Kind = ('a string', lambda v: isinstance(v, str) and v != '')
_FLAG: Kind = ('0 or 1', lambda v: v in (0, 1))
_BOX: Kind = (
    '[x, y, width, height], in pixels',
    lambda v: isinstance(v, list) and len(v) == 4 and all(map(is_number, v)),
)
_FIELDS: dict[str, dict[str, Kind]] = {
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


@dataclass(frozen=True)
class AnnotationSummary:
    """What the annotations of one dataset hold.

    Args:
        images: Path of every image.
        boxes: Number of boxes of the classes that mmdet lets a model learn.
        flat: Where boxes have no width or height: an id of an image or the
            path of an annotation file each.
        names: Names of the categories, in the order of the file.
        looked_at: How many images' annotations were read: fewer than there
            are images if only a sample was.
        sizes: Width and height of images, as the annotations have them.
        remarks: What is not wrong, but may surprise.
        ids: Of the images, as a metric looks for them.
        unmarked: Annotation without "iscrowd", which pycocotools needs.
    """

    images: tuple[str, ...]
    boxes: int
    flat: tuple[str, ...]
    names: tuple[str, ...]
    looked_at: int
    sizes: Mapping[str, tuple[int, int]]
    remarks: tuple[str, ...]
    ids: frozenset = frozenset()
    unmarked: str = ''


def read_coco(
    ann_file: str, folder: str, classes: Sequence[str], test: bool
) -> AnnotationSummary:
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
    for what, entries in (
        ('images', images),
        ('annotations', boxes),
        ('categories', categories),
    ):
        _check_fields(entries, what, ann_file)
        _refuse_twice(entries, 'id', what, ann_file)
    used = [entry for entry in categories if entry['name'] in classes]
    _refuse_twice(used, 'name', 'categories', ann_file)

    paths = tuple(osp.join(folder, image['file_name']) for image in images)
    shapes = [(image['width'], image['height']) for image in images]
    by_id = {image['id']: shape for image, shape in zip(images, shapes, strict=True)}
    names = {entry['id']: entry['name'] for entry in categories}
    fates = [_fate(box, by_id.get(box['image_id']), names, classes) for box in boxes]
    return AnnotationSummary(
        images=paths,
        boxes=fates.count(''),
        flat=_unique(
            str(box['image_id'])
            for box, fate in zip(boxes, fates, strict=True)
            if fate == FLAT
        ),
        names=tuple(entry['name'] for entry in categories),
        looked_at=len(images),
        sizes=dict(zip(paths, shapes, strict=True)),
        remarks=_not_used(fates),
        ids=frozenset(by_id),
        unmarked=next((str(box['id']) for box in boxes if 'iscrowd' not in box), ''),
    )


def _fate(
    box: dict,
    size: tuple[int, int] | None,
    names: Mapping[Any, str],
    classes: Sequence[str],
) -> str | None:
    """Why mmdet lets no model learn a COCO box; '' if it does, None where it is of
    none of the classes. As `CocoDataset.parse_data_info` has it."""
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
        return FLAT
    if min(x + width, size[0]) <= max(x, 0) or min(y + height, size[1]) <= max(y, 0):
        return 'outside'
    if box['area'] <= 0:
        return 'of area 0'
    return 'under 1 pixel' if width < 1 or height < 1 else ''


def _not_used(fates: Sequence[str | None]) -> tuple[str, ...]:
    """The remark on boxes that mmdet leaves out or ignores, if there are any."""
    counts = Counter(fate for fate in fates if fate)
    total = sum(fate is not None for fate in fates)
    reasons = ', '.join(f'{count} {why}' for why, count in counts.most_common(8))
    if not counts:
        return ()
    return (f'{sum(counts.values())} of {total} boxes are not used: {reasons}',)


def _read_json(path: str) -> Any:
    _demand_file(path)
    try:
        with open(path, encoding='utf-8') as file:
            return json.load(file)
    except (ValueError, RecursionError) as error:  # of json, and of UTF-8
        empty = osp.getsize(path) == 0
        raise AnnotationError(
            f'{path} is {"empty" if empty else "no valid json"}',
            expected='a COCO json',
            actual=f'{osp.getsize(path)} bytes: {error}',
            fix='save the file as UTF-8 without BOM'
            if 'BOM' in str(error)
            else 'copy or unpack the file again: it may be cut off',
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
    """Raise unless every entry holds what mmdet reads, of the kind that it needs."""
    fields = _FIELDS[what]
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise AnnotationError(
                f'{path}: {what}[{number}] is no object', actual=_cut(entry)
            )
        for key, (words, fits) in fields.items():
            if fits(entry[key]) if key in entry else key in _OPTIONAL:
                continue
            ids = {k: entry[k] for k in ('id', 'image_id') if k in entry and k != key}
            raise AnnotationError(
                f'{path}: {what}[{number}] has no {key!r}'
                if key not in entry
                else f'{path}: {key!r} of {what}[{number}], {_cut(ids)}',
                expected=f'{key}: {words}, in each of its {what}',
                actual=_cut(entry[key]) if key in entry else None,
                available=[str(name) for name in entry][:8],
            )


def _refuse_twice(entries: Sequence[dict], key: str, what: str, path: str) -> None:
    """Raise where two entries have the same `key`: one would hide the other."""
    values = [entry[key] for entry in entries]
    if len(set(values)) == len(values):
        return
    value, count = Counter(values).most_common(1)[0]
    raise AnnotationError(
        f'{path}: {count} of its {what} have the same {key}',
        expected=f'a different {key} for each of {len(values)} {what}',
        actual=f'{key}: {_cut(value)}',
    )


def read_voc(
    ann_file: str,
    root: str,
    classes: Sequence[str],
    image_folder: str = 'JPEGImages',
    xml_folder: str = 'Annotations',
    smallest: float = 0,
    limit: int = XML_FILES,
) -> AnnotationSummary:
    """The listing of a Pascal VOC data set.

    Args:
        ann_file: Text file with the id of an image in each line.
        root: Folder that holds the two folders below.
        classes: Names of the classes to be learned.
        image_folder: Name of the folder of images.
        xml_folder: Name of the folder of annotations.
        smallest: Boxes of fewer pixels are ignored (`bbox_min_size`).
        limit: Of longer lists, so many XML files are parsed, evenly spaced.

    Raises:
        AnnotationError: The list is missing or empty, or an XML file is
            missing or broken.
    """
    ids = _read_ids(ann_file)
    names: dict[str, None] = {}
    sizes = {}
    flat: list[str] = []
    fates: list[str] = []
    empty = 0
    looked_at = evenly_spaced(list(enumerate(ids, 1)), limit)
    for line, id_ in looked_at:
        path = osp.join(root, xml_folder, f'{id_}.xml')
        _demand_file(path, f'line {line} of {ann_file}: ')
        objects, size = _read_xml(path)
        if size is not None:
            sizes[osp.join(root, image_folder, f'{id_}.jpg')] = size
        empty += not objects
        for name, width, height, difficult in objects:
            names[name] = None
            fate = f'called {name!r}'
            if name in classes:
                fate = _voc_fate(width, height, difficult, smallest)
            if fate == FLAT:
                flat.append(path)
            fates.append(fate)
    twice = len(ids) - len(set(ids))
    remarks = [
        f'{empty} annotation files hold no object' if empty else '',
        f'{twice} images are listed twice' if twice else '',
    ]
    return AnnotationSummary(
        images=tuple(osp.join(root, image_folder, f'{id_}.jpg') for id_ in ids),
        boxes=fates.count(''),
        flat=_unique(flat),
        names=tuple(names),
        looked_at=len(looked_at),
        sizes=sizes,
        remarks=_not_used(fates) + tuple(remark for remark in remarks if remark),
    )


def _read_ids(path: str) -> list[str]:
    """The ids in a list of images, as mmdet reads them."""
    _demand_file(path)
    try:
        with open(path, encoding='utf-8') as file:
            ids = [line.rstrip('\n\r') for line in file]
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f'{path} is no text in UTF-8',
            expected='the id of an image in each line',
            actual=error,
        ) from error
    if not any(ids):
        raise AnnotationError(
            f'{path} lists no images', expected='the id of an image in each line'
        )
    for number, id_ in enumerate(ids, 1):
        # Such long names are another kind of file, which has no lines.
        if not id_ or id_ != id_.strip(' \t\ufeff') or len(id_) > 1000:
            raise AnnotationError(
                f'{path}: line {number} is no id of an image',
                expected='the name of its annotation file, without .xml',
                actual=_cut(id_),
                fix='no empty lines, spaces around ids, or byte order mark (BOM)',
            )
    return ids


def _voc_fate(width: int, height: int, difficult: bool, smallest: float) -> str:
    """`_fate` of a Pascal VOC object, as `XMLDataset` has it."""
    if difficult:
        return 'difficult'
    if width <= 0 or height <= 0:
        return FLAT
    return f'under {smallest:g} pixels' if min(width, height) < smallest else ''


def _read_xml(
    path: str,
) -> tuple[list[tuple[str, int, int, bool]], tuple[int, int] | None]:
    """Name, width, height, difficult of each object; width and height of the image."""
    found = []
    try:
        root = ET.parse(path).getroot()
        # mmdet takes the image's own size where there is none.
        size = root.find('size')
        shape = None
        if size is not None:
            shape = (_integer(size, 'width'), _integer(size, 'height'))
        for item in root.findall('object'):
            box = item.find('bndbox')
            # mmdet cuts coordinates to integers before it looks at the size.
            x1, y1, x2, y2 = (
                int(float(box.find(key).text))  # type: ignore[union-attr, arg-type]
                for key in ('xmin', 'ymin', 'xmax', 'ymax')
            )
            hard = item.find('difficult') is not None and _integer(item, 'difficult')
            name = item.find('name').text or ''  # type: ignore[union-attr]
            found.append((name, x2 - x1, y2 - y1, bool(hard)))
    except (
        ET.ParseError,
        AttributeError,
        LookupError,  # of an encoding that nobody knows
        OverflowError,  # of infinity
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
    """The whole number in a child of `element`, as mmdet reads it."""
    return int(element.find(key).text)  # type: ignore[union-attr, arg-type]


def _demand_file(path: str, where: str = '') -> None:
    """Raise AnnotationError where there is no such file, naming what is."""
    if osp.isfile(path):
        return
    there, gone = Path(path).parent, Path(path).name
    while not there.is_dir() and there != there.parent:
        there, gone = there.parent, there.name
    names = sorted(entry.name for entry in there.iterdir()) if there.is_dir() else []
    if there == Path(path).parent and there not in (Path(), Path('/')):
        shown = nearest_names(Path(path).name, names)
    else:
        # Much may lie there that has nothing to do with it.
        close = [get_close_matches(n, names, 3) for n in (gone, Path(path).name)]
        shown = [*close[0], *close[1]]
    raise AnnotationError(
        f'{where}there is no annotation file {path}',
        expected=f'a file, seen from the folder {osp.abspath("")}',
        actual=f'the folder {there} is there' + (', and holds:' if shown else ''),
        available=_unique(shown),
        fix='data_root=... and ann_file=... of the dataset, as they are here',
    )


def _cut(value: Any) -> str:
    """`value` as it is written, at most a line of it."""
    text = repr(value)
    return text if len(text) <= 100 else f'{text[:100]}...'


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
