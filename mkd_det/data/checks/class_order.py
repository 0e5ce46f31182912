"""The order of classes should be the same in config and annotations."""

from __future__ import annotations

from ..formats.annotations import list_names
from .annotated_dataset import AnnotatedDataset


def check(data: AnnotatedDataset) -> str:
    """Return a remark if mmdet orders the classes in another way than the config."""
    classes = list(data.classes)
    in_order = [name for name in data.annotations.names if name in classes]
    if not data.is_coco or in_order == classes:
        return ''
    return (
        f'mmdet numbers the classes in the order of the file, {list_names(in_order)},'
        f' not of the config, {list_names(classes)}: class names in results are'
        ' swapped'
    )
