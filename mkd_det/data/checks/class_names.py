"""The classes of the config must be categories of the annotations."""

from __future__ import annotations

from ...errors import AnnotationError, nearest_names
from ..formats.annotations import list_names
from .annotated_dataset import AnnotatedDataset


def check(data: AnnotatedDataset) -> str:
    """Raise AnnotationError if a class is no category of the annotations."""
    names = data.annotations.names
    absent = [name for name in data.classes if name not in names]
    foreign = [name for name in names if name not in data.classes]
    if not data.is_coco and not foreign:
        # VOC files have no list of categories, so a rare class may not occur. A
        # misspelt class leaves a name in the files that is no class.
        absent = []
    if absent:
        raise AnnotationError(
            f'{data.dataset.ann_file}: no category is called '
            + ', '.join(repr(name) for name in absent[:5])
            + (f' (and {len(absent) - 5} more)' if len(absent) > 5 else ''),
            expected=f'classes={list_names(data.classes)}',
            actual=f'{len(names)} categories, {len(foreign)} of no class',
            available=nearest_names(absent[0], foreign or names, limit=20),
            fix=f'metainfo=dict(classes={list_names(names)}) in the dataset',
        )
    return ''
