"""COCO: a json, or a folder with a json for each split."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

from ...errors import AnnotationError, DataError
from .making import make_layout
from .split import Layout, Split

# How splits are called, as whole words of a file name or of the name of its folder.
SPLIT_WORDS = {
    'train': {'train', 'training', 'trainset', 'minitrain'},
    'val': {'val', 'valid', 'validation', 'valset', 'minival'},
    'test': {'test', 'testing', 'testset'},
    'trainval': {'trainval'},
}
# Parts of json files that are no annotations of boxes.
_OTHER = ('caption', 'keypoint', 'panoptic', 'stuff', 'image_info')
# What is read of each entry, and its types.
_FIELDS: dict[str, dict[str, Any]] = {
    'images': dict(id=(int, str), file_name=str),
    'annotations': dict(image_id=(int, str), category_id=(int, str), bbox=list),
    'categories': dict(id=(int, str), name=str),
}
_EXPECTED = '; '.join(
    f'{kind} with {", ".join(fields)}' for kind, fields in _FIELDS.items()
)


def coco_of_file(file: Path) -> Layout:
    """Return the layout of one COCO json, whose images are beside it or near it.

    Args:
        file: The json.

    Raises:
        DataError: It is no COCO json, or its images are not found.
    """
    try:
        content = _read(file)
    except (OSError, ValueError) as error:
        raise _invalid(file, error) from error
    return make_layout('COCO json', {'train': _split(file, content, file.parent)})


def coco_of_folder(root: Path) -> Layout | None:
    """Return the layout of a folder of COCO; None where it is of another layout.

    Args:
        root: The folder, with `annotations/*.json` or `*.json`; also a json in the
            folder of each split, as Roboflow exports it.

    Raises:
        DataError: Its images are not found.
    """
    contents = _contents(root)
    files: dict[str, list[Path]] = {}
    for file in contents:
        files.setdefault(split_of(file.relative_to(root)), []).append(file)
    if len(contents) == 1 and '' in files:
        files = {'train': files['']}
    if 'train' not in files and 'trainval' not in files:
        return None
    splits, notes = {}, []
    names = ('train' if 'train' in files else 'trainval', 'val', 'test')
    for name in (name for name in names if name in files):
        first, *others = files[name]
        splits[name] = _split(first, contents[first], root)
        if others:
            unused = ', '.join(str(f.relative_to(root)) for f in others)
            notes.append(f'{name}: {first.relative_to(root)} is used, not {unused}')
    if 'trainval' in splits:
        whole = splits.pop('trainval')
        splits['train'] = _without(whole, list(splits.values()))
        if splits['train'] is not whole:
            count = len(splits['train'].content['images'])
            notes.append(f'training images: {count} of trainval, in no other split')
    return make_layout('COCO', splits, notes)


def split_of(file: Path) -> str:
    """Return the split that a file is named after; '' for none, or for several.

    Args:
        file: The file, from the folder of the dataset. Its name counts first, then that
            of its folder.
    """
    for text in (file.stem, file.parent.name):
        parts = re.findall('[A-Z]+(?![a-z])|[A-Z]?[a-z]+', text)
        words = {part.lower() for part in parts}
        named = [split for split, known in SPLIT_WORDS.items() if known & words]
        if named == ['train', 'val']:
            return 'trainval'
        if named:
            return named[0] if len(named) == 1 else ''
    return ''


def _read(file: Path) -> Any:
    """Return the content of a json, which may begin with a byte order mark."""
    return json.loads(file.read_text(encoding='utf-8-sig'))


def _contents(root: Path) -> dict[Path, Any]:
    """Return the files of a folder that look like COCO, with what they hold."""
    files = {
        file
        for pattern in ('*.json', 'annotations/*.json', '*/*.json')
        for file in root.glob(pattern)
        if not any(word in file.stem.lower() for word in _OTHER)
    }
    contents = {}
    for file in sorted(files):
        try:
            content = _read(file)
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and {'images', 'categories'} <= content.keys():
            contents[file] = content
    return contents


def _split(file: Path, content: Any, root: Path) -> Split:
    """Return the split of a json, after its fields were looked at."""
    try:
        for kind, fields in _FIELDS.items():
            for index, entry in enumerate(content[kind]):
                for name, types in fields.items():
                    if not _is_one(entry[name], types):
                        raise TypeError(f'{kind}[{index}]: {name} is {entry[name]!r}')
        names = [image['file_name'] for image in content['images']]
        content['categories'][0]
    except (KeyError, TypeError, IndexError) as error:
        raise _invalid(file, error) from error
    if not names:
        raise AnnotationError(f'{file} lists no images')
    images = _find_images(file, root, names[0])
    # pycocotools cannot read it: the content is written anew.
    with file.open('rb') as stream:
        marked = stream.read(3) == codecs.BOM_UTF8
    return Split(images, content, None if marked else file)


def _is_one(value: Any, types: Any) -> bool:
    """Return whether a value has one of some types; 3.0, of pandas, is an integer."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return isinstance(value, types) and not isinstance(value, bool)


def _invalid(file: Path, error: Exception) -> AnnotationError:
    missing = isinstance(error, KeyError)
    return AnnotationError(
        f'{file} is no COCO annotation file',
        expected=_EXPECTED,
        actual=f'no {error}' if missing else f'{type(error).__name__}: {error}',
        fix=f'write {error} wherever it is missing'
        if missing
        else 'repair that entry, or take it out',
    )


def _without(split: Split, others: list[Split]) -> Split:
    """Return a split without the images that are in others."""
    held = {i['file_name'] for other in others for i in other.content['images']}
    images = split.content['images']
    kept = [image for image in images if image['file_name'] not in held]
    if not kept:
        raise AnnotationError(
            f'{split.file or "trainval"}: no image is left to train on',
            expected='images that are not in val or test',
            actual=f'{len(images)} images, all of them in val or test',
        )
    return split if len(kept) == len(images) else split.with_images(kept)


def _find_images(file: Path, root: Path, name: str) -> Path:
    """Return the folder in which the first image of a json is."""
    split = split_of(Path(file.parent.name, file.name)) or file.stem.lower()
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
