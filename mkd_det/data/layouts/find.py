"""Finds out which layout a dataset has."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from .coco import coco_of_file, coco_of_folder
from .split import Layout
from .voc import voc_of_folder
from .yolo import yolo_of_file, yolo_of_folder

_EXPECTED = (
    'a COCO json; a folder with annotations/*.json and images; a folder with'
    ' Annotations, JPEGImages and ImageSets/Main (Pascal VOC); a folder with'
    ' data.yaml, images/train and labels/train (YOLO); or its data.yaml'
)


def find_layout(path: Path) -> Layout:
    """Read a dataset of any known layout.

    Args:
        path: A COCO json, a yaml of YOLO, or the folder of a dataset.

    Raises:
        DataError: There is nothing, or no known layout.
    """
    if path.is_file() and path.suffix == '.json':
        return coco_of_file(path)
    if path.is_file() and path.suffix in ('.yaml', '.yml'):
        return yolo_of_file(path)
    if path.is_dir():
        for reader in (coco_of_folder, voc_of_folder, yolo_of_folder):
            layout = reader(path)
            if layout is not None:
                return layout
        names = sorted(f.name for f in path.iterdir())[:8]
        raise DataError(
            f'{path}: the layout of this dataset is not known',
            expected=_EXPECTED,
            actual=', '.join(names) or 'an empty folder',
        )
    if path.is_file():
        raise DataError(f'{path} is a file that is no dataset', expected=_EXPECTED)
    raise DataError(f'there is no dataset at {path}', expected=_EXPECTED)
