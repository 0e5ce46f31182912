"""YOLO: images with a text file each, `class x y width height` in shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from ...errors import AnnotationError
from .split import Layout, Split, coco_content, make_layout

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
_SPLITS = {'train': ('train',), 'val': ('val', 'valid'), 'test': ('test',)}


def yolo_of_folder(root: Path) -> Layout | None:
    """Return the layout of a folder of YOLO; None where it is of another layout.

    Args:
        root: The folder, with a yaml that has `names` (and paths of splits), and
            `images/train` beside `labels/train`, or `train/images` beside
            `train/labels`.

    Raises:
        AnnotationError: The class names or a label file cannot be read.
    """
    settings = _read_settings(root)
    folders = {
        split: folder
        for split, words in _SPLITS.items()
        if (folder := _find_images(root, settings, words)) is not None
    }
    if 'train' not in folders:
        return None
    names = settings.get('names')
    classes = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(classes, list) or not all(isinstance(n, str) for n in classes):
        raise AnnotationError(
            f'{root}: the names of the classes are not known',
            expected='data.yaml with names: [first, second]',
            actual=repr(names),
        )
    splits = {name: _read(folder, classes) for name, folder in folders.items()}
    return make_layout('YOLO', splits)


def _read_settings(root: Path) -> dict[str, Any]:
    for file in sorted([*root.glob('*.yaml'), *root.glob('*.yml')]):
        try:
            content = yaml.safe_load(file.read_text(encoding='utf-8'))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(content, dict) and 'names' in content:
            return content
    return {}


def _find_images(
    root: Path, settings: dict[str, Any], words: tuple[str, ...]
) -> Path | None:
    """Return the folder of the images of a split whose labels are found."""
    named = [settings[word] for word in words if isinstance(settings.get(word), str)]
    usual = [p for word in words for p in (f'images/{word}', f'{word}/images')]
    bases = [root, root / str(settings.get('path') or '')]
    for base in bases:
        for name in [*named, *usual]:
            # Roboflow writes '../train/images' for a folder beside the yaml.
            for folder in (base / name, base / name.removeprefix('../')):
                if folder.is_dir() and _labels_of(folder).is_dir():
                    return folder
    return None


def _labels_of(folder: Path) -> Path:
    """Return the folder of labels: `images` in the path becomes `labels`."""
    parts = list(folder.parts)
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] == 'images':
            parts[index] = 'labels'
            break
    return Path(*parts)


def _read(folder: Path, classes: list[str]) -> Split:
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in _SUFFIXES)
    images, boxes = [], []
    for file in files:
        with Image.open(file) as opened:
            width, height = opened.size
        images.append((file.name, width, height))
        labels = _labels_of(folder) / f'{file.stem}.txt'
        boxes.append(_read_labels(labels, len(classes), width, height))
    return Split(folder, coco_content(images, boxes, classes))


def _read_labels(
    file: Path, classes: int, width: int, height: int
) -> list[tuple[int, list[float]]]:
    """Return label and box of each line; none where there is no file."""
    if not file.is_file():
        return []
    found = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            label, *values = line.split()
            index, numbers = int(float(label)), [float(v) for v in values]
            if not 0 <= index < classes:
                raise ValueError(f'class {index} of {classes}')
            found.append((index, _to_box(numbers, width, height)))
        except ValueError as error:
            raise AnnotationError(
                f'{file}: line {number} cannot be read',
                expected='class x y width height, as shares of the image',
                actual=f'{line[:60]!r}: {error}',
            ) from error
    return found


def _to_box(values: list[float], width: int, height: int) -> list[float]:
    """Turn centre and size, or the corners of a polygon, into a box in pixels."""
    if len(values) == 4:
        x, y, w, h = values
        return [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f'{len(values)} numbers')
    xs, ys = values[::2], values[1::2]
    left, top = min(xs) * width, min(ys) * height
    return [left, top, max(xs) * width - left, max(ys) * height - top]
