"""Checks of training data that has images without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import Dataset

from ...data.unlabeled import UNLABELED, UnlabeledImages
from ...errors import ConfigError
from ...io.random_state import preserved_random_state
from ...registry import type_name

# Samplers that never come to an end.
_INFINITE = ('InfiniteSampler', 'MultiSourceSampler', 'GroupMultiSourceSampler')


def check_infinite_sampler(cfg: Config) -> None:
    """Raise where an epoch would have no end.

    Args:
        cfg: Config of a training.

    Raises:
        ConfigError: A loop over epochs has a sampler without an end.
    """
    sampler = cfg.train_dataloader.get('sampler') or {}
    if not isinstance(sampler, Mapping):
        raise ConfigError(
            'train_dataloader: sampler must be a dict',
            actual=repr(sampler),
            fix="sampler=dict(type='DefaultSampler', shuffle=True)",
        )
    name = type_name(sampler.get('type'))
    loop = cfg.train_cfg.get('type') or (
        'EpochBasedTrainLoop' if cfg.train_cfg.get('by_epoch') else ''
    )
    if name in _INFINITE and type_name(loop) == EpochBasedTrainLoop.__name__:
        raise ConfigError(
            f'train_dataloader: {name} has no end, so that no epoch ends',
            expected=IterBasedTrainLoop.__name__,
            actual=type_name(loop),
            fix="train_cfg=dict(_delete_=True, type='IterBasedTrainLoop',"
            ' max_iters=1000, val_interval=100)',
        )


def check_unlabeled(dataset: Dataset) -> None:
    """Raise where images without labels would be taken for images without objects.

    Args:
        dataset: The training data, built.

    Raises:
        ConfigError: A wrapper loses the mark of such images, or their class names
            differ from those of the labelled data.
    """
    for part in _parts(dataset):
        inner = _innermost(part)
        if not isinstance(inner, UnlabeledImages):
            continue
        with preserved_random_state():
            sample = part[0].get('data_samples')
        if sample is not None and UNLABELED not in sample.metainfo:
            raise ConfigError(
                f'{type(part).__name__}: its pipeline loses the mark of images without'
                ' labels, which would be taken for images without objects',
                expected=f'{UNLABELED!r} in meta_keys of PackDetInputs',
                actual=', '.join(sample.metainfo),
                fix="dict(type='PackDetInputs', meta_keys=('img_id', 'img_path',"
                f" 'ori_shape', 'img_shape', 'scale_factor', {UNLABELED!r}))",
            )
    metainfo: Any = getattr(dataset, 'metainfo', None)
    inner = [_innermost(part) for part in _parts(dataset)]
    if isinstance(metainfo, list) and any(
        isinstance(one, UnlabeledImages) for one in inner
    ):
        _compare_metainfo([one.metainfo for one in inner])


def _compare_metainfo(metainfo: Sequence[Mapping[str, Any]]) -> None:
    """Raise for parts of different metainfo, which every checkpoint would hold."""
    classes = {tuple(m['classes']) for m in metainfo if 'classes' in m}
    if len(classes) > 1:
        raise ConfigError(
            'the parts of ConcatDataset have different classes',
            actual='; '.join(map(str, sorted(classes))),
            fix="dict(type='UnlabeledImages', images=...), without metainfo",
        )
    keys = sorted(
        key
        for key in set().union(*metainfo) - {'cumulative_sizes'}
        if any(m.get(key) != metainfo[0].get(key) for m in metainfo)
    )
    raise ConfigError(
        'the parts of ConcatDataset have different metainfo',
        expected='one for all, since checkpoints hold it',
        actual=', '.join(keys),
        fix=f"dict(type='ConcatDataset', ignore_keys={keys!r}, datasets=[...])",
    )


def _parts(dataset: Any) -> Iterator[Any]:
    """Yield the parts of concatenated data, as they are wrapped."""
    parts = getattr(dataset, 'datasets', None)
    if parts is None:
        yield dataset
    else:
        for part in parts:
            yield from _parts(part)


def _innermost(dataset: Any) -> Any:
    while hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    return dataset
