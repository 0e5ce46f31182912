"""What the labels of datasets mean: the class of each number that the data yields.

A model knows numbers only. `metainfo` gives their order for Pascal VOC; for a COCO json
mmdet numbers the classes in the order of the file's categories, whatever `metainfo`
says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope

from ..errors import ClassOrderError, MkdError
from .datasets import (
    checks_itself,
    class_names,
    dataset_class,
    has_no_labels,
    leaf_datasets,
    open_dataset,
    reads_standard_format,
)
from .formats.annotations import list_names
from .formats.coco import read_coco

# Wrappers that hand labels on as they are.
_WRAPPERS = (
    'ConcatDataset',
    'RepeatDataset',
    'ClassBalancedDataset',
    'MultiImageMixDataset',
)


@dataclass(frozen=True)
class Labels:
    """The classes of the labels of one dataset.

    Args:
        source: The dataset, in words.
        names: Name of the class of each label; empty where it is not known.
        unknown: Why it is not known.
    """

    source: str
    names: tuple[str, ...] = ()
    unknown: str = ''


def read_labels(cfg: Mapping[str, Any], split: str) -> list[Labels]:
    """Read what the labels of each dataset of a split mean.

    Args:
        cfg: A config of a training.
        split: 'train', 'val' or 'test'.

    Returns:
        The labels of each dataset, without wrappers; none where the config has no such
        split.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    found = []
    leaves = [
        leaf
        for leaf in leaf_datasets(cfg, split)
        if not has_no_labels(dataset_class(leaf, split))
    ]
    wrappers = _foreign_wrappers((cfg.get(f'{split}_dataloader') or {}).get('dataset'))
    for leaf in leaves:
        source = f'the {split} data'
        if len(leaves) > 1 or leaf.get('ann_file'):
            source += f' ({leaf.get("ann_file") or leaf.get("type")})'
        try:
            labels = Labels(source, *_names_or_reason(leaf, split))
        except (MkdError, OSError) as error:
            reason = getattr(error, 'message', None) or str(error)
            labels = Labels(source, (), reason)
        if wrappers and labels.names:
            reason = f'{wrappers[0]} around it may change labels'
            labels = Labels(source, (), reason)
        found.append(labels)
    return found


def agreed_names(found: Sequence[Labels]) -> tuple[str, ...]:
    """Return the classes of the labels of all datasets; empty where not known."""
    names = {labels.names for labels in found}
    return names.pop() if len(names) == 1 else ()


def compare_labels(found: Sequence[Labels]) -> list[str]:
    """Raise if a label means one class in one dataset and another in another.

    Args:
        found: The labels of all datasets of a training.

    Returns:
        What could not be compared, in words.

    Raises:
        ClassOrderError: Two datasets number the same classes in different ways.
    """
    known = [labels for labels in found if labels.names]
    lines = [
        f'the classes of the labels of {labels.source} are not known:'
        f' {labels.unknown}; their order is not checked'
        for labels in found
        if not labels.names
    ]
    for other in known[1:]:
        lines += _compare(known[0], other)
    return list(dict.fromkeys(lines))


def _compare(first: Labels, other: Labels) -> list[str]:
    for label, (mine, theirs) in enumerate(zip(first.names, other.names)):
        if mine == theirs:
            continue
        if mine not in other.names and theirs not in first.names:
            return [
                f'label {label} is {mine!r} in {first.source}, {theirs!r} in'
                f' {other.source}: whether both are the same class is not checked'
            ]
        raise ClassOrderError(
            f'label {label} is {mine!r} in {first.source}, {theirs!r} in'
            f' {other.source}',
            expected=list_names(first.names),
            actual=list_names(other.names),
            fix='the same order of categories in both files: mmdet numbers classes in'
            ' the order of a COCO json,\nwhatever `metainfo` says (for Pascal VOC:'
            ' the same order in `metainfo`)',
        )
    return []


def _names_or_reason(leaf: Mapping, split: str) -> tuple[tuple[str, ...], str]:
    """Return the names by label, or why they are not known."""
    cls = dataset_class(leaf, split)
    if checks_itself(cls):
        names = (DATASETS.build(dict(leaf)).metainfo or {}).get('classes') or ()
        return tuple(names), '' if names else f'{cls.__name__} gives no class names'
    if not reads_standard_format(cls):
        return (), f'{cls.__name__} reads its files in its own way'
    if leaf.get('backend_args'):
        return (), 'its files are not on this disk'
    dataset = open_dataset(leaf, split)
    classes = class_names(dataset)
    if not isinstance(dataset, CocoDataset):
        return classes, ''
    categories = read_categories(dataset.ann_file, classes)
    return tuple(name for name in categories if name in classes), ''


# Large files take half a minute to read. Keys: path, size and time of the last change.
_categories: dict[tuple, tuple[str, ...]] = {}


def read_categories(ann_file: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the categories of a COCO json, in its order.

    Args:
        ann_file: The file; it is read once, as long as it does not change.
        classes: Names of the classes of the dataset.

    Raises:
        AnnotationError: The file cannot be read.
    """
    key = _stamp(ann_file)
    if key not in _categories:
        remember_categories(ann_file, read_coco(ann_file, '', classes, test=True).names)
    return _categories[key]


def remember_categories(ann_file: str, names: Sequence[str]) -> None:
    """Keep the names of the categories of a file that was read.

    Args:
        ann_file: The file.
        names: The names, in its order.
    """
    _categories[_stamp(ann_file)] = tuple(names)


def _stamp(path: str) -> tuple:
    known = os.stat(path) if os.path.exists(path) else None
    return os.path.realpath(path), known and (known.st_size, known.st_mtime_ns)


def _foreign_wrappers(dataset: Any) -> list[str]:
    """Return the types of wrappers that are not known to keep labels."""
    return list(_walk(dataset))


def _walk(dataset: Any) -> Iterator[str]:
    if isinstance(dataset, Sequence) and not isinstance(dataset, str):
        for part in dataset:
            yield from _walk(part)
    elif isinstance(dataset, Mapping):
        inside = dataset.get('dataset', dataset.get('datasets'))
        if inside is not None:
            kind = dataset.get('type')
            name = kind.__name__ if isinstance(kind, type) else str(kind)
            if name.rpartition('.')[2] not in _WRAPPERS:
                yield name
            yield from _walk(inside)
