"""A dataset on disk, whatever its layout: splits with COCO annotations."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .content import is_zero_size


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

    @property
    def paths(self) -> set[str]:
        """Paths of its images."""
        folder = os.path.realpath(self.images)
        names = [image['file_name'] for image in self.content['images']]
        return {os.path.normpath(os.path.join(folder, name)) for name in names}

    @property
    def without_mask(self) -> int:
        """Number of objects that have a box and no mask."""
        used = [
            entry
            for entry in self.content['annotations']
            if not (entry.get('ignore') or is_zero_size(entry))
        ]
        return sum(not entry.get('segmentation') for entry in used)

    def with_images(self, images: Sequence[Mapping[str, Any]]) -> Split:
        """Return some of the images and their annotations, which are in no file.

        Args:
            images: Entries of `content['images']`.
        """
        ids = {image['id'] for image in images}
        boxes = [b for b in self.content['annotations'] if b['image_id'] in ids]
        content = {**self.content, 'images': list(images), 'annotations': boxes}
        return Split(self.images, content)


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
