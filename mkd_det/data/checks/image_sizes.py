"""Images must have the size that the annotations give."""

from __future__ import annotations

from ...errors import AnnotationError
from .annotated_dataset import AnnotatedDataset


def check(data: AnnotatedDataset) -> str:
    """Raise AnnotationError if most decoded images have another size; else remark."""
    decoded = data.image_sizes
    wrong = [
        f'{path} is {size[0]}x{size[1]}, not {listed[0]:g}x{listed[1]:g}'
        for path, size in decoded.items()
        if (listed := data.annotations.sizes.get(path)) and listed != size
    ]
    if 2 * len(wrong) > len(decoded):
        raise AnnotationError(
            f'{data.dataset.ann_file}: most images have another size than annotated',
            expected='width and height of the images after EXIF rotation',
            actual=f'{len(wrong)} of {len(decoded)} differ: {wrong[0]}',
            fix='use the images on which the boxes were drawn, or correct width and'
            ' height in the annotations',
        )
    return f'{len(wrong)} images of another size: {wrong[0]}' if wrong else ''
