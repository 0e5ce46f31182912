"""A dataset on disk, whatever its layout: splits with COCO annotations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import AnnotationError

# Share of the images that validate where a dataset has no split for it.
VAL_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    """One split.

    Args:
        images: Folder that the file names of images begin from.
        content: Its annotations in COCO's format.
        file: The json that holds them; None where they come from another layout.
    """

    images: Path
    content: Mapping[str, Any]
    file: Path | None = None


@dataclass(frozen=True)
class Layout:
    """A dataset.

    Args:
        name: Name of the layout, for people.
        train: Training images.
        val: Images to choose on.
        test: Images to report; None where the dataset has none.
        notes: What was decided, a sentence each.
    """

    name: str
    train: Split
    val: Split
    test: Split | None = None
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the annotations' categories."""
        return tuple(c['name'] for c in self.train.content['categories'])

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that there are, by name."""
        splits = {'train': self.train, 'val': self.val, 'test': self.test}
        return {name: split for name, split in splits.items() if split is not None}

    def files(self, folder: Path) -> dict[str, tuple[Path, Path]]:
        """Return the annotation file and the folder of the images of each split.

        Args:
            folder: Where `write` writes annotations that are in no json yet.
        """
        return {
            name: (split.file or folder / f'{name}.json', split.images)
            for name, split in self.splits.items()
        }

    def write(self, folder: Path) -> dict[str, tuple[Path, Path]]:
        """Write annotations that are in no json yet, and return `files`.

        Args:
            folder: Where to.
        """
        for name, split in self.splits.items():
            if split.file is None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f'{name}.json').write_text(json.dumps(split.content))
        return self.files(folder)


def make_layout(name: str, splits: Mapping[str, Split]) -> Layout:
    """Make a layout of the splits that were found; validation is split off if need be.

    Args:
        name: Name of the layout.
        splits: 'train', and where they are there 'val' and 'test'.

    Raises:
        AnnotationError: Splits have other categories, or too few images to split.
    """
    notes = []
    train, val = splits['train'], splits.get('val')
    if val is None:
        train, val = _split_off(train)
        count = len(val.content['images'])
        notes.append(
            f'no validation split: {count} training images, drawn with seed 0, are used'
            ' to validate and not to train'
        )
    layout = Layout(name, train, val, splits.get('test'), tuple(notes))
    for other in (layout.val, layout.test):
        theirs = [c['name'] for c in other.content['categories']] if other else None
        if theirs is not None and tuple(theirs) != layout.classes:
            raise AnnotationError(
                f'{name}: the splits have different categories',
                expected=', '.join(layout.classes),
                actual=', '.join(theirs),
                fix='the same categories in the same order in each annotation file',
            )
    return layout


def _split_off(split: Split) -> tuple[Split, Split]:
    images: Sequence[Any] = split.content['images']
    if len(images) < 2:
        raise AnnotationError(
            'there are too few images to validate on some of them',
            expected='at least 2 images',
            actual=len(images),
        )
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    count = max(1, round(VAL_SHARE * len(images)))
    parts = []
    for picked in (sorted(order[count:]), sorted(order[:count])):
        kept = [images[i] for i in picked]
        ids = {image['id'] for image in kept}
        boxes = [b for b in split.content['annotations'] if b['image_id'] in ids]
        content = {**split.content, 'images': kept, 'annotations': boxes}
        parts.append(Split(split.images, content))
    return parts[0], parts[1]


def coco_content(
    images: Sequence[tuple[str, int, int]],
    boxes: Sequence[Sequence[tuple[int, Sequence[float]]]],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Return annotations in COCO's format.

    Args:
        images: File name, width and height of each image.
        boxes: Of each image its boxes: label, and x, y, width, height in pixels.
        classes: Class names by label.
    """
    entries: list[dict[str, Any]] = []
    for index, found in enumerate(boxes):
        for label, box in found:
            entries.append(
                {
                    'id': len(entries) + 1,
                    'image_id': index + 1,
                    'category_id': label + 1,
                    'bbox': list(box),
                    'area': box[2] * box[3],
                    'iscrowd': 0,
                }
            )
    return {
        'images': [
            {'id': i + 1, 'file_name': name, 'width': width, 'height': height}
            for i, (name, width, height) in enumerate(images)
        ],
        'annotations': entries,
        'categories': [{'id': i + 1, 'name': name} for i, name in enumerate(classes)],
    }
