"""The datasets of a config: finding them, building them, their classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from mmdet.datasets import CocoDataset, XMLDataset
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope

from ..errors import ConfigError, as_config_error, is_number, nearest_names


def dataset_classes(
    cfg: Mapping[str, Any], split: str = 'train'
) -> tuple[str, ...] | None:
    """Return the class names of the data of a split.

    Args:
        cfg: A config of a training.
        split: 'train', 'val' or 'test'.

    Returns:
        The names; None if they differ between the parts of the data, or if a dataset
        must be read completely to know them.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    found = set()
    for leaf in leaf_datasets(cfg, split):
        cls = dataset_class(leaf, split)
        if has_no_labels(cls):
            continue
        if checks_itself(cls):
            dataset = DATASETS.build(dict(leaf))
        elif reads_standard_format(cls):
            dataset = open_dataset(leaf, split)
        else:
            continue
        found.add(tuple(dataset.metainfo.get('classes') or ()))
    return (found.pop() or None) if len(found) == 1 else None


def leaf_datasets(cfg: Mapping[str, Any], split: str) -> list[Mapping]:
    """Return the configs of the datasets of a split, without their wrappers.

    Args:
        cfg: A config of a training.
        split: 'train', 'val' or 'test'.

    Raises:
        ConfigError: The dataloader or its dataset is no dict.
    """
    return [leaf for part in dataset_parts(cfg, split) for leaf in part]


def dataset_parts(cfg: Mapping[str, Any], split: str) -> list[list[Mapping]]:
    """Return the leaf datasets of each part of a concatenated dataset.

    Any other dataset is one part.

    Args:
        cfg: A config of a training.
        split: 'train', 'val' or 'test'.

    Raises:
        ConfigError: The dataloader or its dataset is no dict.
    """
    loader = cfg.get(f'{split}_dataloader')
    if loader is None:
        return []
    if not isinstance(loader, Mapping) or not isinstance(
        loader.get('dataset'), Mapping
    ):
        raise ConfigError(
            f'{split}_dataloader and its dataset must be dicts',
            actual=repr(loader),
            fix=f"{split}_dataloader=dict(dataset=dict(type='CocoDataset', ...))",
        )
    dataset = loader['dataset']
    parts = dataset.get('datasets')
    if not isinstance(parts, Sequence) or isinstance(parts, str):
        parts = [dataset]
    return [list(_leaves(part)) for part in parts]


def _leaves(dataset: Any) -> Iterator[Mapping]:
    """Yield the innermost dataset configs."""
    if isinstance(dataset, Sequence) and not isinstance(dataset, str):
        for part in dataset:
            yield from _leaves(part)
    elif isinstance(dataset, Mapping):
        inside = dataset.get('dataset', dataset.get('datasets'))
        if inside is None:
            yield dataset
        else:
            yield from _leaves(inside)


def dataset_class(cfg: Mapping, split: str) -> Any:
    """Return the class of a dataset config.

    Args:
        cfg: The config of the dataset.
        split: Its split, for the message.

    Raises:
        ConfigError: There is no dataset of that type.
    """
    kind = known = cfg.get('type')
    if kind is not None and not isinstance(kind, type):
        # `DATASETS.build` looks it up in the same way.
        with DATASETS.switch_scope_and_registry(cfg.get('_scope_')) as registry:
            known = registry.get(str(kind))
    if known is None:
        raise ConfigError(
            f'{split}_dataloader: there is no dataset of type {kind!r}',
            actual=f'dict({", ".join(map(str, cfg))})' if kind is None else None,
            available=nearest_names(str(kind), DATASETS.module_dict),
            fix="custom_imports=dict(imports=['your.module']) if it is your own",
        )
    return known


def checks_itself(cls: Any) -> bool:
    """Return whether a dataset class has a method `check(images) -> str`."""
    return callable(getattr(cls, 'check', None))


def has_no_labels(cls: Any) -> bool:
    """Return whether a dataset class has images without labels only."""
    return bool(getattr(cls, 'unlabeled', False))


def reads_standard_format(cls: Any) -> bool:
    """Return whether a class reads its files as CocoDataset or XMLDataset does."""
    return isinstance(cls, type) and any(
        issubclass(cls, family)
        and getattr(cls, 'load_data_list', None) is family.load_data_list
        for family in (CocoDataset, XMLDataset)
    )


def open_dataset(cfg: Mapping, split: str) -> CocoDataset | XMLDataset:
    """Build a dataset without reading its files.

    mmdet resolves paths, class names and defaults of the config.

    Args:
        cfg: The config of the dataset.
        split: Its split, for messages.

    Raises:
        ConfigError: The config is not valid.
    """
    with as_config_error(f'{split}_dataloader: {dataset_class(cfg, split).__name__}'):
        dataset = DATASETS.build({**cfg, 'pipeline': [], 'lazy_init': True})
    where = f'{split}_dataloader.dataset'
    for name in ('ann_file', *(['data_root'] if cfg.get('data_root') else [])):
        if not isinstance(getattr(dataset, name), str):
            raise ConfigError(
                f'{where}: {name} must be a path', actual=repr(cfg.get(name))
            )
    names = dataset.metainfo.get('classes')
    count = isinstance(names, (list, tuple)) and len(set(map(str, names)))
    if not count or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f'{where}: classes must be a list of names',
            actual=repr(names),
            fix="metainfo=dict(classes=('red', 'green'))",
        )
    if count != len(names):
        raise ConfigError(f'{where}: a class is listed twice', actual=repr(names))
    return dataset


def absent_data(cfg: Mapping[str, Any]) -> list[str]:
    """Return the files and folders of training and validation data that do not exist.

    Of COCO and VOC data: the annotation file, and the folder of the images.

    Args:
        cfg: A config of a training.
    """
    found = []
    for split in ('train', 'val'):
        for leaf in leaf_datasets(cfg, split):
            if leaf.get('backend_args') or not reads_standard_format(
                dataset_class(leaf, split)
            ):
                continue
            dataset = open_dataset(leaf, split)
            folder = dataset.data_prefix.get('img') or dataset.data_root
            found += [str(p) for p in (dataset.ann_file, folder) if p]
    return [path for path in dict.fromkeys(found) if not os.path.exists(path)]


def count_images(cfg: Mapping[str, Any]) -> int:
    """Return the number of training images after filters, not counting repeats.

    Args:
        cfg: A config of a training.

    Raises:
        ConfigError: A dataset cannot be built.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    found = 0
    for leaf in leaf_datasets(cfg, 'train'):
        given = {**leaf, 'pipeline': []} if 'pipeline' in leaf else {**leaf}
        # pycocotools prints its progress.
        with as_config_error('train_dataloader'), redirect_stdout(StringIO()):
            found += len(DATASETS.build(given))
    return found


def class_names(dataset: CocoDataset | XMLDataset) -> tuple[str, ...]:
    """Return the class names of a dataset."""
    return tuple(dataset.metainfo['classes'])


def min_box_size(dataset: CocoDataset | XMLDataset) -> float:
    """Return `bbox_min_size`; XMLDataset uses it for training only."""
    filters = dataset.filter_cfg
    value = filters.get('bbox_min_size') if isinstance(filters, Mapping) else 0
    in_test = isinstance(dataset, XMLDataset) and dataset.test_mode
    return float(value or 0) if is_number(value) and not in_test else 0.0
