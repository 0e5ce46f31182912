"""Pascal VOC: `Annotations`, `JPEGImages`, `ImageSets/Main`."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from PIL import Image

from ...errors import AnnotationError
from .split import Layout, Split, coco_content, make_layout

_ANNOTATIONS, _IMAGES, _LISTS = 'Annotations', 'JPEGImages', 'ImageSets/Main'
_SUFFIXES = ('.jpg', '.jpeg', '.png', '.JPG')

Objects = list[tuple[str, list[float]]]


def voc_of_folder(root: Path) -> Layout | None:
    """Return the layout of a folder of VOC; None where it is of another layout.

    Args:
        root: The folder, or one around a single `VOC...` folder.

    Raises:
        AnnotationError: An annotation or an image is missing or cannot be read.
    """
    if not (root / _ANNOTATIONS).is_dir():
        inner = [f.parent for f in sorted(root.glob(f'*/{_ANNOTATIONS}')) if f.is_dir()]
        if len(inner) != 1:
            return None
        root = inner[0]
    ids = {
        split: _read_ids(root / _LISTS / f'{split}.txt')
        for split in ('train', 'val', 'test')
    }
    if not ids['train']:
        ids['train'] = _read_ids(root / _LISTS / 'trainval.txt') or sorted(
            file.stem for file in (root / _ANNOTATIONS).glob('*.xml')
        )
    read = {s: [_read_xml(root, one) for one in many] for s, many in ids.items()}
    names = sorted({n for many in read.values() for _, o in many for n, _ in o})
    if not names:
        raise AnnotationError(f'{root / _ANNOTATIONS} has no objects')
    splits = {}
    for split, many in read.items():
        if many:
            boxes = [[(names.index(n), box) for n, box in o] for _, o in many]
            content = coco_content([image for image, _ in many], boxes, names)
            splits[split] = Split(root / _IMAGES, content)
    return make_layout('Pascal VOC', splits)


def _read_ids(file: Path) -> list[str]:
    if not file.is_file():
        return []
    lines = file.read_text(encoding='utf-8').splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def _read_xml(root: Path, name: str) -> tuple[tuple[str, int, int], Objects]:
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
    folder = root / _IMAGES
    image = next((f for s in _SUFFIXES if (f := folder / f'{name}{s}').is_file()), None)
    if image is None:
        raise AnnotationError(f'{file}: its image is missing', expected=str(folder))
    with Image.open(image) as opened:
        width, height = opened.size
    return (image.name, width, height), [o for o in objects if min(o[1][2:]) > 0]


def _read_object(found: ET.Element) -> tuple[str, list[float]]:
    box = found.find('bndbox')
    left, top, right, bottom = (
        float(box.find(key).text)  # type: ignore[union-attr, arg-type]
        for key in ('xmin', 'ymin', 'xmax', 'ymax')
    )
    name = found.find('name').text  # type: ignore[union-attr]
    return str(name).strip(), [left - 1, top - 1, right - left, bottom - top]
