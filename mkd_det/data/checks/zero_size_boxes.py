"""Boxes must have a width and a height."""

from __future__ import annotations

from ...errors import AnnotationError
from ..formats.annotations import list_names
from .annotated_dataset import AnnotatedDataset


def check(data: AnnotatedDataset) -> str:
    """Raise AnnotationError for boxes of zero size, unless `bbox_min_size` is set."""
    boxes = data.annotations.zero_size
    if not boxes or data.min_box_size > 0:
        return ''
    where = 'images with the ids' if data.is_coco else 'annotation files'
    raise AnnotationError(
        f'{data.dataset.ann_file}: boxes without width or height, in {len(boxes)}'
        f' {where} {list_names(boxes)}',
        expected='width and height above 0',
        fix=_fix(data),
    )


def _fix(data: AnnotatedDataset) -> str:
    if not data.is_coco and data.dataset.test_mode:
        return '<difficult>1</difficult> in the object: an ignored region'
    fix = 'filter_cfg=dict(bbox_min_size=1) in the dataset'
    if data.is_coco:
        return (
            f'{fix}: confirms that mmdet drops these boxes;\n'
            'or "iscrowd": 1 in the annotation'
        )
    return f'{fix}: turns them into ignored regions'
