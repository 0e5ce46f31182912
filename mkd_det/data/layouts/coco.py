"""COCO: a json, or a folder with a json for each split."""

from __future__ import annotations

import json
from pathlib import Path

from ...errors import AnnotationError, DataError
from .split import Layout, Split, make_layout

# How splits are called in file names; the first that is found counts.
SPLIT_WORDS = {'train': ('train',), 'val': ('val',), 'test': ('test',)}
# Parts of json files that are no annotations of boxes.
_OTHER = ('caption', 'keypoint', 'panoptic', 'stuff', 'image_info')


def coco_of_file(file: Path) -> Layout:
    """Return the layout of one COCO json, whose images are beside it or near it.

    Args:
        file: The json.

    Raises:
        DataError: It is no COCO json, or its images are not found.
    """
    return make_layout('COCO json', {'train': _read(file, file.parent)})


def coco_of_folder(root: Path) -> Layout | None:
    """Return the layout of a folder of COCO; None where it is of another layout.

    Args:
        root: The folder, with `annotations/*.json` or `*.json`; also a json in the
            folder of each split, as Roboflow exports it.

    Raises:
        DataError: Its images are not found.
    """
    found = sorted(
        file
        for pattern in ('*.json', 'annotations/*.json', '*/*.json')
        for file in root.glob(pattern)
        if not any(word in file.stem.lower() for word in _OTHER)
    )
    splits: dict[str, Path] = {}
    for split, words in SPLIT_WORDS.items():
        for file in found:
            name = str(file.relative_to(root)).lower()
            if any(word in name for word in words) and _looks_like_coco(file):
                splits.setdefault(split, file)
    if 'train' not in splits:
        alone = [file for file in found if _looks_like_coco(file)]
        if len(alone) != 1 or splits:
            return None
        splits = {'train': alone[0]}
    return make_layout('COCO', {name: _read(f, root) for name, f in splits.items()})


def _looks_like_coco(file: Path) -> bool:
    """Return whether a json has the keys of COCO near its beginning or its end."""
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {'images', 'categories'} <= content.keys()


def _read(file: Path, root: Path) -> Split:
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
        names = [image['file_name'] for image in content['images']]
        content['annotations'], content['categories'][0]['name']
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise AnnotationError(
            f'{file} is no COCO annotation file',
            expected='an object with images, annotations, categories',
            actual=f'{type(error).__name__}: {error}',
        ) from error
    if not names:
        raise AnnotationError(f'{file} lists no images')
    return Split(_find_images(file, root, names[0]), content, file)


def _find_images(file: Path, root: Path, name: str) -> Path:
    """Return the folder in which the first image of a json is."""
    split = next((s for s in SPLIT_WORDS if s in file.stem.lower()), file.stem.lower())
    bases = list(dict.fromkeys([file.parent, file.parent.parent, root]))
    folders = [
        base / inner
        for base in bases
        for inner in ('', 'images', split, f'images/{split}', f'{split}/images')
    ]
    folders += [f for base in bases for f in sorted(base.glob(f'{split}*'))]
    for folder in folders:
        if (folder / name).is_file():
            return folder
    raise DataError(
        f'the images of {file} are not found',
        expected=f'a file {name}',
        available=[str(folder) for folder in folders if folder.is_dir()][:6],
        fix=f'put the images into {bases[-1] / "images"}',
    )
