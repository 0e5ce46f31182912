"""Pascal VOC: `Annotations`, `JPEGImages`, `ImageSets/Main`."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...errors import AnnotationError, DataError
from ..formats.images import list_images, read_size
from .content import LabelledBox, coco_content
from .making import make_layout
from .split import Layout, Split

_ANNOTATIONS, _IMAGES, _LISTS = 'Annotations', 'JPEGImages', 'ImageSets/Main'


class _Object(NamedTuple):
    name: str
    box: list[float]
    difficult: bool

    def labelled(self, names: Sequence[str]) -> LabelledBox:
        return LabelledBox(names.index(self.name), self.box, (), self.difficult)


def voc_of_folder(root: Path) -> Layout | None:
    """Return the layout of a folder of VOC; None where it is of another layout.

    Args:
        root: The folder, or one around a single `VOC...` folder.

    Raises:
        DataError: An annotation or an image is missing or cannot be read, or there
            are several datasets.
    """
    found_root = _find_root(root)
    if found_root is None:
        return None
    root, folder = found_root, found_root / _IMAGES
    ids = _read_splits(root)
    images = {
        str(f.relative_to(folder).with_suffix('')): str(f.relative_to(folder))
        for f in list_images(folder)
    }
    read = {s: [_read_xml(root, one, images) for one in m] for s, m in ids.items()}
    objects = [o for many in read.values() for _, found in many for o in found]
    names = sorted({one.name for one in objects})
    if not names:
        raise AnnotationError(f'{root / _ANNOTATIONS} has no objects')
    splits = {}
    for split, many in read.items():
        if many:
            boxes = [[o.labelled(names) for o in found] for _, found in many]
            content = coco_content([image for image, _ in many], boxes, names)
            splits[split] = Split(folder, content)
    difficult = sum(one.difficult for one in objects)
    notes = [
        f'{difficult} objects marked difficult are not taught and not counted in the'
        ' metric'
    ] * bool(difficult)
    return make_layout('Pascal VOC', splits, notes)


def _find_root(folder: Path) -> Path | None:
    """Return the folder of the dataset: a folder or the only one in it."""
    if (folder / _ANNOTATIONS).is_dir():
        return folder
    inner = [f.parent for f in sorted(folder.glob(f'*/{_ANNOTATIONS}')) if f.is_dir()]
    inner = [f for f in inner if len(inner) == 1 or (f / _IMAGES).is_dir()]
    if len(inner) > 1:
        raise DataError(
            f'{folder} holds {len(inner)} datasets of Pascal VOC',
            expected='one of them',
            available=[f.name for f in inner],
            fix=f'--data {inner[0]}',
        )
    return inner[0] if inner else None


def _read_splits(root: Path) -> dict[str, list[str]]:
    """Return the ids of each split; those to train on are in no other one."""
    lists = root / _LISTS
    ids = {s: _read_ids(lists / f'{s}.txt') for s in ('train', 'val', 'test')}
    if not ids['train']:
        every = _read_ids(lists / 'trainval.txt') or sorted(
            file.stem for file in (root / _ANNOTATIONS).glob('*.xml')
        )
        held = {*ids['val'], *ids['test']}
        ids['train'] = [one for one in every if one not in held]
    if not ids['train']:
        raise AnnotationError(
            f'{root}: there are no training images',
            expected=f'{lists / "train.txt"} with the names of images, or annotations'
            ' that are not in val.txt or test.txt',
        )
    return ids


def _read_ids(file: Path) -> list[str]:
    if not file.is_file():
        return []
    lines = file.read_text(encoding='utf-8-sig').splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def _read_xml(
    root: Path, name: str, images: Mapping[str, str]
) -> tuple[tuple[str, int, int], list[_Object]]:
    """Return file name, width and height of an image, and its objects."""
    file = root / _ANNOTATIONS / f'{name}.xml'
    try:
        tree = ET.parse(file)
        objects = [_read_object(found) for found in tree.iter('object')]
    except (OSError, ET.ParseError, ValueError, AttributeError, TypeError) as error:
        raise AnnotationError(
            f'{file} cannot be read',
            expected='an object with name, and bndbox with xmin, ymin, xmax, ymax',
            actual=f'{type(error).__name__}: {error}',
        ) from error
    # Tools that copy an image copy its `filename`, too: the name of the xml counts.
    written = (tree.findtext('filename') or '').strip()
    image = images.get(name) or images.get(Path(written).stem) or ''
    if not image:
        raise AnnotationError(
            f'{file}: its image is missing',
            expected=str(root / _IMAGES / (written or f'{name}.jpg')),
        )
    return (image, *read_size(str(root / _IMAGES / image))), objects


def _read_object(found: ET.Element) -> _Object:
    box = found.find('bndbox')
    left, top, right, bottom = (
        float(box.find(key).text)  # type: ignore[union-attr, arg-type]
        for key in ('xmin', 'ymin', 'xmax', 'ymax')
    )
    name = found.find('name').text  # type: ignore[union-attr]
    difficult = (found.findtext('difficult') or '').strip() in ('1', 'true', 'True')
    corner = [left - 1, top - 1, right - left, bottom - top]
    return _Object(str(name).strip(), corner, difficult)
