"""Which images a split of YOLO has: of folders, or of lists of files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import AnnotationError, DataError
from ..formats.images import IMAGE_SUFFIXES, list_images

SPLITS = {'train': ('train',), 'val': ('val', 'valid', 'validation'), 'test': ('test',)}


@dataclass(frozen=True)
class YoloSettings:
    """The yaml of a dataset.

    Args:
        root: Folder of the dataset.
        content: What the yaml holds; empty where there is none.
        file: The yaml.
    """

    root: Path
    content: Mapping[str, Any]
    file: Path | None = None

    @property
    def bases(self) -> list[Path]:
        """Folders that paths begin from: `path`, which may be of another machine."""
        return [self.root / str(self.content.get('path') or ''), self.root]

    def key_of(self, split: str) -> str:
        """Return the key that names the images of a split; '' for none.

        Args:
            split: 'train', 'val' or 'test'.
        """
        return next((key for key in SPLITS[split] if self.content.get(key)), '')

    def usual_folder(self, split: str) -> Path | None:
        """Return the folder where the images of a split usually are.

        Args:
            split: 'train', 'val' or 'test'.
        """
        names = [n for w in SPLITS[split] for n in (f'images/{w}', f'{w}/images')]
        folders = [base / name for base in self.bases for name in names]
        return next((folder for folder in folders if folder.is_dir()), None)


def find_images(settings: YoloSettings, split: str) -> list[Path]:
    """Return the images of a split; none where the dataset does not have it.

    Args:
        settings: The yaml; `train` and the like may be a folder, a text file that lists
            images, or a list of them.
        split: 'train', 'val' or 'test'.

    Raises:
        DataError: What the yaml names is not there, or has no images.
    """
    key = settings.key_of(split)
    if not key:
        folder = settings.usual_folder(split)
        return [] if folder is None else _images_of(folder, settings)
    value = settings.content[key]
    sources = value if isinstance(value, list) else [value]
    found = []
    for source in sources:
        place = _locate(settings, str(source))
        if place is None and split == 'test':
            return []  # exports name a test split whether there is one or not
        if place is None or not isinstance(source, str):
            raise _missing(settings, split, source)
        found += _images_of(place, settings)
    return list(dict.fromkeys(found))


def _locate(settings: YoloSettings, source: str) -> Path | None:
    """Return the file or folder that a setting names; None where it is not there."""
    for base in settings.bases:
        # Roboflow writes '../train/images' for a folder beside the yaml.
        for name in (source, source.removeprefix('../')):
            if (base / name).exists():
                return Path(os.path.abspath(base / name))
    return None


def _missing(settings: YoloSettings, split: str, source: Any) -> DataError:
    key, usual = settings.key_of(split), settings.usual_folder(split)
    if usual is not None:
        fix = f'{key}: {os.path.abspath(usual)}'
    elif split == 'val':
        fix = f'without {key}: some training images are then used to validate'
    else:
        fix = f'correct {key} in {settings.file}, or its path'
    return DataError(
        f'{settings.file}: {key}: {source} is not there',
        expected='a folder of images, a text file that lists images, or a list of them',
        actual=f'no {settings.bases[0] / str(source)}',
        fix=fix,
    )


def _images_of(place: Path, settings: YoloSettings) -> list[Path]:
    """Return the images in a folder, or those that a text file lists."""
    place = Path(os.path.abspath(place))
    if place.is_dir():
        found = list_images(place)
    elif place.suffix == '.txt':
        found = _read_list(place, settings)
    else:
        raise DataError(
            f'{place} is neither a folder of images nor a list of them',
            expected='a folder, or a .txt with the path of an image in each line',
        )
    if not found:
        raise AnnotationError(
            f'there are no images in {place}',
            expected='files that end in ' + ', '.join(IMAGE_SUFFIXES),
            fix=f'put images into {place}, or remove it',
        )
    return found


def _read_list(file: Path, settings: YoloSettings) -> list[Path]:
    """Return the images that a text file lists, from its folder or from `path`."""
    found = []
    text = file.read_text(encoding='utf-8-sig', errors='replace')
    for number, line in enumerate(text.splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        bases = [file.parent, *settings.bases]
        image = next((b / name for b in bases if (b / name).is_file()), None)
        if image is None:
            raise AnnotationError(
                f'{file}: line {number} names an image that is not there',
                expected=str(file.parent / name),
                actual=name,
                fix=f'write the path of the image relative to {file.parent}',
            )
        found.append(Path(os.path.abspath(image)))
    return found
