"""A dataset must have boxes to train on."""

from __future__ import annotations

from ...errors import AnnotationError
from ..annotations import list_names
from .annotated_dataset import AnnotatedDataset


def check(data: AnnotatedDataset) -> str:
    """Raise AnnotationError if training data has no box; remark it for test data."""
    annotations = data.annotations
    if annotations.boxes:
        return ''
    if data.dataset.test_mode:
        return 'no box to evaluate on'
    raise AnnotationError(
        f'{data.dataset.ann_file}: no box to train on',
        expected=f'boxes of {list_names(data.classes)}',
        actual='; '.join(annotations.remarks) or None,
        available=annotations.names,
    )
