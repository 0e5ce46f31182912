"""Makes a layout of the splits that were found, and checks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import AnnotationError
from .content import is_zero_size
from .split import Layout, Split

# Share of the images that validate where a dataset has no split for it.
VAL_SHARE = 0.2


def make_layout(
    name: str, splits: Mapping[str, Split], notes: Sequence[str] = ()
) -> Layout:
    """Make a layout of the splits that were found; validation is split off if need be.

    Args:
        name: Name of the layout.
        splits: 'train', and where they are there 'val' and 'test'.
        notes: What was decided so far, a sentence each.

    Raises:
        AnnotationError: Splits have other categories, two of the same name, too few
            images to split, or no box to train on.
    """
    found = dict(splits)
    said = [*notes]
    if 'val' not in found:
        found['train'], found['val'] = _split_off(found['train'])
        count = len(found['val'].content['images'])
        said.append(
            f'no validation split: {count} training images, drawn with seed 0, are used'
            ' to validate and not to train'
        )
    for key, split in found.items():
        # mmdet drops such boxes when it trains, but a metric would count them.
        if key != 'train' or split.file is None:
            found[key], dropped = _without_zero_size(split)
            if dropped:
                said.append(
                    f'{key}: boxes without width or height are left out: {dropped}'
                )
    layout = Layout(name, found['train'], found['val'], found.get('test'))
    _check_categories(layout)
    if not layout.train.content['annotations']:
        raise AnnotationError(
            f'{name}: the training images have no boxes',
            expected='at least one box',
            actual=f'{len(layout.train.content["images"])} images in'
            f' {layout.train.images}',
        )
    said += _shared_images(layout)
    return Layout(name, layout.train, layout.val, layout.test, tuple(said))


def _without_zero_size(split: Split) -> tuple[Split, int]:
    """Return a split without boxes of zero size, and how many there were."""
    entries: Sequence[Any] = split.content['annotations']
    kept = [entry for entry in entries if not is_zero_size(entry)]
    if len(kept) == len(entries):
        return split, 0
    content = {**split.content, 'annotations': kept}
    return Split(split.images, content), len(entries) - len(kept)


def _split_off(split: Split) -> tuple[Split, Split]:
    images: Sequence[Any] = split.content['images']
    if len(images) < 2:
        raise AnnotationError(
            'there are too few images to validate on some of them',
            expected='at least 2 images',
            actual=f'{len(images)} in {split.file or split.images}',
        )
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    count = max(1, round(VAL_SHARE * len(images)))
    train, val = (
        split.with_images([images[i] for i in sorted(picked)])
        for picked in (order[count:], order[:count])
    )
    return train, val


def _check_categories(layout: Layout) -> None:
    """Raise unless the splits have the same categories, each name once."""
    twice = {name for name in layout.classes if layout.classes.count(name) > 1}
    if twice:
        raise AnnotationError(
            f'{layout.name}: two classes have the same name',
            expected='another name for each class',
            actual=', '.join(sorted(twice)),
        )
    for split in (layout.val, layout.test):
        theirs = [c['name'] for c in split.content['categories']] if split else None
        if theirs is not None and tuple(theirs) != layout.classes:
            raise AnnotationError(
                f'{layout.name}: the splits have different categories',
                expected=', '.join(layout.classes),
                actual=', '.join(theirs),
                fix='the same categories in the same order in each annotation file',
            )


def _shared_images(layout: Layout) -> list[str]:
    """Return notes on images that are both trained and measured on.

    Some datasets mean it so, such as coco8 and coco128, which show that a training
    runs.
    """
    notes, train = [], layout.train.paths
    for name, split in layout.splits.items():
        measured = split.paths if name != 'train' else set()
        both = len(measured & train)
        if both:
            notes.append(
                f'{both} of the {len(measured)} {name} images are training images'
                f' too: {name} figures do not tell how the student does on new images'
            )
    return notes
