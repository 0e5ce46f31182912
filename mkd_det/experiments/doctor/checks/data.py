"""Data that a detector can learn from: objects, sizes, and enough of each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from mmengine.dataset import ConcatDataset, RepeatDataset
from torch import nn

from ..examination import Examination
from ..finding import OK, WARNING, Finding

POSITION = 110
# Images whose annotations are read; more are sampled.
MOST = 5000
# Objects of a class, from which on something can be learnt; classes that are named.
FEW, LISTED = 10, 20
# Parts of the images, or of the objects, from which on they are worth a warning.
EMPTY, CROWDED, TINY = 0.3, 0.05, 0.05


@dataclass
class Counts:
    """What is counted in the training data.

    Attributes:
        images: Images with labels that were looked at; one without objects has labels.
        looked: Images that were looked at.
        total: Images that there are; a repeated one is one.
        boxes: Objects by label.
        empty: Images without an object.
        crowded: Images with more objects than the student may find.
        tiny: Objects that are smaller than a cell of the student's finest level.
    """

    images: int = 0
    looked: int = 0
    total: int = 0
    boxes: Counter[int] = field(default_factory=Counter)
    empty: int = 0
    crowded: int = 0
    tiny: int = 0


def check(case: Examination) -> Iterator[Finding]:
    """Count objects, and name what there is too much or too little of."""
    dataset = case.train_loader.dataset
    if not hasattr(dataset, 'get_data_info'):
        text = f'{type(dataset).__name__} does not tell its objects'
        yield Finding('data', OK, f'not counted: {text}')
        return
    stride, most = first_stride(case.model.student), most_objects(case.model.student)
    scale = _scale(case)
    counts = count(dataset, stride / scale if stride else 0.0, most)
    if not counts.boxes and not counts.images:
        return
    found = list(_images(counts, most)) + list(_tiny(counts, stride, scale))
    found += list(_classes(counts, dataset))
    yield from found
    objects = sum(counts.boxes.values())
    each = objects / max(counts.images, 1)
    yield Finding(
        'data',
        OK,
        f'{counts.total} training images, {objects} labels in {counts.images} of them,'
        f' {each:.1f} on each; by class: {_listed(counts, dataset)}',
    )


def count(dataset: Any, least: float, most: int) -> Counts:
    """Count the objects of a dataset.

    Args:
        dataset: A dataset of mmengine.
        least: Objects whose longer side is below are tiny, in pixels of the files.
        most: Images with more objects are crowded.
    """
    parts = list(unrepeated(dataset))
    total = sum(map(len, parts))
    size = min(total, MOST)
    counts = Counts(looked=size, total=total)
    for info in _infos(parts, [i * total // size for i in range(size)]):
        if 'gt_label' in info:  # of a classifier
            counts.images += 1
            counts.boxes[int(info['gt_label'])] += 1
            continue
        if 'instances' not in info:
            continue  # no labels, on purpose
        objects = [one for one in info['instances'] if not one.get('ignore_flag')]
        counts.images += 1
        counts.empty += not objects
        counts.crowded += len(objects) > most
        for one in objects:
            counts.boxes[int(one['bbox_label'])] += 1
            x1, y1, x2, y2 = one.get('bbox', (0, 0, least, least))
            counts.tiny += max(x2 - x1, y2 - y1) < least
    return counts


def unrepeated(dataset: Any) -> Iterator[Any]:
    """Yield the parts of a dataset, without what repeats one as a whole.

    Args:
        dataset: A dataset of mmengine.
    """
    if isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from unrepeated(part)
    elif isinstance(dataset, RepeatDataset):
        yield from unrepeated(dataset.dataset)
    else:
        yield dataset


def _infos(parts: list[Any], indices: list[int]) -> Iterator[Any]:
    """Yield what datasets say of images, by index over all of them, rising."""
    start, rest = 0, iter(parts)
    part = next(rest, None)
    for index in indices:
        while part is not None and index >= start + len(part):
            start += len(part)
            part = next(rest, None)
        if part is not None:
            yield part.get_data_info(index - start)


def _images(counts: Counts, most: int) -> Iterator[Finding]:
    """Yield what is said of empty and crowded images."""
    if counts.empty > EMPTY * counts.images:
        yield Finding(
            'data',
            WARNING,
            f'{counts.empty} of {counts.images} images have no object',
            'filter_cfg=dict(filter_empty_gt=True) in the training dataset, if they are'
            ' not there on purpose',
        )
    if counts.crowded > CROWDED * counts.images:
        yield Finding(
            'data',
            WARNING,
            f'{counts.crowded} of {counts.images} images have more than {most} objects,'
            ' the most that the student yields',
            'a larger test_cfg.max_per_img (and nms_pre) of the student; or smaller'
            ' parts of the images',
        )


def _tiny(counts: Counts, stride: int, scale: float) -> Iterator[Finding]:
    objects = sum(counts.boxes.values())
    if counts.tiny > TINY * objects:
        yield Finding(
            'data',
            WARNING,
            f'{counts.tiny} of {objects} objects are smaller than {stride} pixels, the'
            f' first stride of the student, at the scale of the training ({scale:.2f})',
            'larger images in Resize, or a neck that begins at an earlier stage',
        )


def _classes(counts: Counts, dataset: Any) -> Iterator[Finding]:
    """Yield the classes of which there are few objects."""
    if not counts.images:
        return
    factor = counts.total / counts.looked
    few = {n: factor * counts.boxes[i] for i, n in enumerate(_names(dataset, counts))}
    few = {name: round(number) for name, number in few.items() if number < FEW}
    if few:
        # The rarest of those that are there at all; most of COCO's may be missing.
        few = dict(sorted(few.items(), key=lambda one: (not one[1], one[1])))
        listed = ', '.join(f'{name} ({few[name]})' for name in list(few)[:LISTED])
        if len(few) > LISTED:
            listed += f' and {len(few) - LISTED} more'
        sampled = ''
        if counts.looked < counts.total:
            sampled = f', estimated from {counts.looked} of {counts.total} images'
        yield Finding(
            'data',
            WARNING,
            f'classes with under {FEW} objects to learn from{sampled}: {listed}',
            'more images of them, ClassBalancedDataset, or a list of classes without'
            ' them',
        )


def _names(dataset: Any, counts: Counts) -> list[str]:
    meta = getattr(dataset, 'metainfo', None) or {}
    names = list(meta.get('classes') or ()) if isinstance(meta, dict) else []
    return names or [f'class {i}' for i in range(max(counts.boxes, default=-1) + 1)]


def _listed(counts: Counts, dataset: Any) -> str:
    names = _names(dataset, counts)
    most = counts.boxes.most_common(6)
    parts = [
        f'{names[label] if label < len(names) else label} {n}' for label, n in most
    ]
    rest = len(names) - len(most)
    return ', '.join(parts) + (f', {rest} more' if rest > 0 else '')


def first_stride(student: nn.Module) -> int:
    """Return the smallest stride at which the student finds objects; 0 if unknown."""
    found = [
        getattr(getattr(module, 'prior_generator', None), 'strides', None)
        for module in student.modules()
    ]
    pairs = [pair for strides in found for pair in strides or ()]
    sides = [min(p) if isinstance(p, (tuple, list)) else p for p in pairs]
    return int(min(sides, default=0))


def most_objects(student: Any) -> int:
    """Return how many objects the student may find in an image."""
    test = getattr(student, 'test_cfg', None) or {}
    for part in (test, test.get('rcnn') or {}):
        if isinstance(part.get('max_per_img'), int):
            return int(part['max_per_img'])
    return int(getattr(student, 'num_queries', 0) or 100)


def _scale(case: Examination) -> float:
    """Return the factor from files to training images: the median of some."""
    factors = [
        float(sample.scale_factor[0])
        for batch in case.batches
        for sample in _samples(batch)
        if getattr(sample, 'scale_factor', None) is not None
    ]
    return median(factors) if factors else 1.0


def _samples(batch: Any) -> list[Any]:
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    return samples if isinstance(samples, list) else []
