"""A dataset must have boxes to train on."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import AnnotationError
from ..formats.annotations import list_names
from .annotated_dataset import AnnotatedDataset


def check(data: AnnotatedDataset) -> str:
    """Raise AnnotationError if training data has no box.

    Of test data, and of data that keeps images without boxes on purpose, remark it.
    """
    annotations = data.annotations
    if annotations.boxes:
        return ''
    if data.dataset.test_mode:
        return 'no box to evaluate on'
    filters = data.dataset.filter_cfg
    if isinstance(filters, Mapping) and filters.get('filter_empty_gt') is False:
        return 'no box to train on: all images are unlabelled'  # semi-supervised
    raise AnnotationError(
        f'{data.dataset.ann_file}: no box to train on',
        expected=f'boxes of {list_names(data.classes)}',
        actual='; '.join(annotations.remarks) or None,
        available=annotations.names,
    )
