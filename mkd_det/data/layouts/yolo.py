"""YOLO: images with a text file each, and a yaml with the names of the classes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from ...errors import AnnotationError, DataError, is_integer
from ..formats.images import list_images, read_size
from .content import coco_content
from .making import make_layout
from .split import Layout, Split
from .yolo_images import SPLITS, YoloSettings, find_images
from .yolo_labels import labels_of, read_labels

_CLASS_LISTS = ('classes.txt', 'labels/classes.txt')


def yolo_of_file(file: Path) -> Layout:
    """Return the layout of the dataset that a yaml describes.

    Args:
        file: The yaml, with `names`, and `train`, `val` and `test` as Ultralytics
            reads them.

    Raises:
        DataError: It is no such yaml, or the data cannot be read.
    """
    expected = 'train: images/train, val: images/val and names: [first, second]'
    try:
        content = yaml.safe_load(file.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(
            f'{file} is no yaml', expected=expected, actual=str(error)
        ) from error
    if not isinstance(content, dict) or 'names' not in content:
        raise DataError(
            f'{file} does not describe a dataset of YOLO',
            expected=expected,
            actual=', '.join(map(str, content)) if isinstance(content, dict) else None,
        )
    layout = _read(YoloSettings(file.parent, content, file))
    if layout is None:
        raise DataError(
            f'{file}: the training images are not found',
            expected=expected,
            fix=f'train: with the folder of the images, in {file}',
        )
    return layout


def yolo_of_folder(root: Path) -> Layout | None:
    """Return the layout of a folder of YOLO; None where it is of another layout.

    Args:
        root: The folder, with a yaml that has `names` (and paths of splits), and
            `images/train` beside `labels/train`, or `train/images` beside
            `train/labels`; or `images`, `labels` and `classes.txt`.

    Raises:
        DataError: The class names or a label file cannot be read, or what the yaml
            names is not there.
    """
    for file in sorted([*root.glob('*.yaml'), *root.glob('*.yml')]):
        try:
            content = yaml.safe_load(file.read_text(encoding='utf-8-sig'))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(content, dict) and 'names' in content:
            return _read(YoloSettings(root, content, file))
    return _read(YoloSettings(root, {}))


def _read(settings: YoloSettings) -> Layout | None:
    """Return the layout; None where there are no training images with labels."""
    images = {split: find_images(settings, split) for split in SPLITS}
    if not any(images.values()) and (settings.root / 'labels').is_dir():
        images['train'] = list_images(settings.root / 'images')
    if not images['train']:
        return None
    notes = []
    for split, files in images.items():
        if not files:
            key = settings.key_of(split)
            if key:
                place = settings.content[key]
                notes.append(f'no test split: {key}: {place} is not there')
        elif not any(labels_of(file).is_file() for file in files):
            if split == 'test':
                notes.append(f'no test split: {len(files)} test images have no labels')
                images[split] = []
            elif split == 'train' and not settings.content:
                return None
            else:
                raise _no_labels(split, files)
    classes = _class_names(settings)
    splits = {key: _split(files, classes) for key, files in images.items() if files}
    return make_layout('YOLO', splits, notes)


def _no_labels(split: str, files: list[Path]) -> AnnotationError:
    return AnnotationError(
        f'none of the {len(files)} {split} images has a label file',
        expected=str(labels_of(files[0])),
        actual=f'{files[0]} and no such file',
        fix=f'put the label files into {labels_of(files[0]).parent}',
    )


def _class_names(settings: YoloSettings) -> list[str]:
    """Return the class names by label.

    Raises:
        AnnotationError: There are none, or a number has no name.
    """
    names = settings.content.get('names')
    if isinstance(names, dict):
        names = _in_order(names, settings.file)
    for file in (settings.root / name for name in _CLASS_LISTS):
        if names is None and file.is_file():
            lines = file.read_text(encoding='utf-8-sig').splitlines()
            names = [line.strip() for line in lines if line.strip()]
    # A number is its own name; `no`, `on` and 1.10 are no texts any more.
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(n, str) or is_integer(n) for n in names)
    ):
        raise AnnotationError(
            f'{settings.file or settings.root}: the names of the classes are not known',
            expected='data.yaml with names: ["first", "second"]',
            actual=repr(names),
            fix='names: ["first", "second"] in'
            f' {settings.file or settings.root / "data.yaml"}, each name in quotes',
        )
    return [str(name) for name in names]


def _in_order(names: dict[Any, Any], file: Path | None) -> list[Any]:
    """Return names in the order of their numbers, which are all there."""
    try:
        numbered = {int(key): name for key, name in names.items()}
    except (TypeError, ValueError) as error:
        raise AnnotationError(
            f'{file}: the keys of names are no numbers',
            expected='names: {0: first, 1: second}',
            actual=', '.join(map(repr, names)),
        ) from error
    missing = sorted(set(range(max(numbered, default=0) + 1)) - numbered.keys())
    if missing or min(numbered) < 0 or len(numbered) < len(names):
        raise AnnotationError(
            f'{file}: names must have the numbers from 0, each once',
            expected='names: {0: first, 1: second}',
            actual=', '.join(map(str, names)),
            fix='add to names: ' + ', '.join(f'{n}: unused_{n}' for n in missing)
            if missing
            else '',
        )
    return [numbered[number] for number in sorted(numbered)]


def _split(files: list[Path], classes: list[str]) -> Split:
    folder = os.path.commonpath([file.parent for file in files])
    images, boxes = [], []
    for file in files:
        width, height = read_size(str(file))
        images.append((os.path.relpath(file, folder), width, height))
        boxes.append(read_labels(labels_of(file), len(classes), width, height))
    return Split(Path(folder), coco_content(images, boxes, classes))
