"""CocoDataset does not use `bbox_min_size`."""

from __future__ import annotations

from .annotated_dataset import AnnotatedDataset


def check(data: AnnotatedDataset) -> str:
    """Return a remark if a COCO dataset sets `bbox_min_size` above 1."""
    if not data.is_coco or data.min_box_size <= 1:
        return ''
    return 'CocoDataset drops boxes under 1 pixel and ignores bbox_min_size'
