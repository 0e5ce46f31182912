"""Checks of training data that has images without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mmdet.datasets.transforms import RandomCrop
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn
from torch.utils.data import Dataset

from ...data.datasets import has_no_labels
from ...data.determinism import transforms_in
from ...data.loaders import load_sample
from ...data.unlabeled import UNLABELED
from ...distiller.model import Distiller
from ...errors import ConfigError
from ...heads.model_input import image_channels
from ...io.random_state import preserved_random_state
from ...plan.unlabeled import describe_left_out, terms_without_labels
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


def check_unlabeled(dataset: Dataset, model: nn.Module | None = None) -> None:
    """Raise where images without labels would be taken for images without objects.

    Terms that do not read them are added to the notes of a distiller's plan.

    Args:
        dataset: The training data, built.
        model: The model that is trained on it.

    Raises:
        ConfigError: A wrapper loses the mark of such images, or mixes them with
            labelled ones; or their class names differ from those of the labelled data;
            or the distiller has no use for them.
    """
    parts = list(_parts(dataset))
    if not any(part.unlabelled for part in parts):
        return
    _check_mixing(dataset)
    channels = image_channels(model) if model is not None else None
    for part in parts:
        if part.unlabelled:
            _check_sample(dataset, part, channels)
    metainfo: Any = getattr(dataset, 'metainfo', None)
    if isinstance(metainfo, list):
        _compare_metainfo([part.data.metainfo for part in parts])
    if isinstance(model, Distiller):
        alone = all(part.unlabelled for part in parts)
        _check_terms(model, alone)
        if alone:
            _check_balance(model)


def _check_sample(dataset: Any, part: _Part, channels: int | None) -> None:
    """Raise where a sample that comes out of all wrappers cannot be learned from.

    Args:
        dataset: The training data.
        part: A part of it without labels.
        channels: Channels of the images that the model sees, if it is known.

    Raises:
        ConfigError: The pipeline fails, loses the mark, or yields other channels.
    """
    name = type(part.data).__name__
    with preserved_random_state():
        item = load_sample(dataset, part.number, f'{name}: the pipeline')
    inputs, sample = item.get('inputs'), item.get('data_samples')
    found = inputs.shape[0] if getattr(inputs, 'ndim', 0) == 3 else channels
    if channels is not None and found != channels:
        raise ConfigError(
            f'{name}: its images have another number of channels than the model sees',
            expected=f'{channels} channels',
            actual=f'{found} in {getattr(sample, "img_path", "a sample")}',
            fix="dict(type='LoadImageFromFile', color_type="
            f'{"grayscale" if channels == 1 else "color"!r})',
        )
    if sample is None or UNLABELED in sample.metainfo:
        return
    raise ConfigError(
        f'{type(dataset).__name__}: its pipeline, or that of a dataset in it, loses the'
        ' mark of images without labels, which would be taken for images without'
        ' objects',
        expected=f'{UNLABELED!r} in meta_keys of PackDetInputs',
        actual=', '.join(sample.metainfo),
        fix="dict(type='PackDetInputs', meta_keys=('img_id', 'img_path',"
        f" 'ori_shape', 'img_shape', 'scale_factor', {UNLABELED!r}))",
    )


def _check_mixing(dataset: Any) -> None:
    """Raise where labelled images are mixed with others: boxes would be missing."""
    for inner in getattr(dataset, 'datasets', ()):
        _check_mixing(inner)
    if not hasattr(dataset, 'dataset'):
        return
    _check_mixing(dataset.dataset)
    kinds = {part.unlabelled for part in _parts(dataset)}
    every = list(transforms_in(getattr(dataset, 'pipeline', ())))
    if True in kinds:
        _check_crops(type(dataset).__name__, every)
    steps = [
        type(step).__name__
        for step in every
        # As Mosaic asks for other images, and as CachedMosaic keeps them.
        if hasattr(step, 'get_indexes') or hasattr(step, 'results_cache')
    ]
    if steps and len(kinds) > 1:
        name = type(dataset).__name__
        raise ConfigError(
            f'{name}: {steps[0]} would mix images without labels into labelled ones,'
            ' whose boxes would then be incomplete',
            expected='a wrapper around each part of ConcatDataset',
            actual=f'{name} around both kinds, with {", ".join(steps)}',
            fix="dict(type='ConcatDataset', ignore_keys=['classes', 'palette'],"
            f" datasets=[dict(type='{name}', dataset=...),"
            f" dict(type='{name}', dataset=...)])",
        )


def _check_crops(wrapper: str, transforms: Sequence[Any]) -> None:
    """Raise for a crop that would look for boxes in images without labels.

    `UnlabeledImages` changes its own pipeline; a wrapper's is for labelled images, too.

    Args:
        wrapper: Type of the dataset whose pipeline it is.
        transforms: The transforms.
    """
    for step in transforms:
        if isinstance(step, RandomCrop) and not step.allow_negative_crop:
            raise ConfigError(
                f'{wrapper}: RandomCrop takes crops with a box only, and images without'
                ' labels have none',
                expected='allow_negative_crop=True',
                actual='allow_negative_crop=False',
                fix="dict(type='RandomCrop', allow_negative_crop=True, ...) in the"
                f' pipeline of {wrapper}; or RandomCrop in that of UnlabeledImages',
            )


def _check_terms(model: Distiller, alone: bool) -> None:
    """Raise where no term reads images without labels; note which ones do not.

    Args:
        model: The distiller.
        alone: Whether there are no labelled images.
    """
    if not model.config.unlabeled.weight:
        if alone:
            raise ConfigError(
                'unlabeled.weight is 0, and no image of the training data has labels',
                expected='labelled images, or a weight above 0',
                actual='weight=0',
                fix='unlabeled=dict(weight=1.0)',
            )
        return  # they are left out on purpose
    reading = terms_without_labels(model.config, model.plan, model.plan.terms)
    if not reading and not model.plan.branches:
        raise ConfigError(
            'the training data has images without labels, and no term reads them',
            expected='a term that needs no labels',
            actual=', '.join(model.plan.terms) or 'no terms',
            fix="a term such as SoftOutputKD; or unlabeled=dict(truth='t.head'), for"
            ' terms that need boxes; or train_dataloader without UnlabeledImages',
        )
    notes = model.plan.notes
    notes += [n for n in describe_left_out(model.config, model.plan) if n not in notes]


def _check_balance(model: Distiller) -> None:
    """Raise where shares of the task's gradient would be shares of nothing."""
    if model.balance is not None:
        raise ConfigError(
            'balance keeps terms at a share of the gradient of the own loss, which no'
            ' image without labels has: every term would count for nothing',
            expected='labelled images in the training data',
            actual='UnlabeledImages only',
            fix='model without `balance`, and `weight` instead of `share` in the terms',
        )


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


class _Part(NamedTuple):
    """An innermost dataset.

    Args:
        data: The dataset.
        number: Index of one of its images in the whole.
    """

    data: Any
    number: int

    @property
    def unlabelled(self) -> bool:
        """Whether its images have no labels."""
        return has_no_labels(type(self.data))


def _parts(dataset: Any) -> Iterator[_Part]:
    """Yield the innermost datasets of nested wrappers."""
    if hasattr(dataset, 'datasets'):
        start = 0
        for inner in dataset.datasets:
            for part in _parts(inner):
                yield part._replace(number=start + part.number)
            start += len(inner)
    elif hasattr(dataset, 'dataset'):
        # ClassBalancedDataset shows images several times, each at least once.
        order = getattr(dataset, 'repeat_indices', None)
        for part in _parts(dataset.dataset):
            at = part.number if order is None else order.index(part.number)
            yield part._replace(number=at)
    else:
        yield _Part(dataset, 0)
