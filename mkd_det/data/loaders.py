"""Builds dataloaders and evaluators before training, as a runner does.

A runner creates its work dir before it finds a misspelt transform, and trains epochs
without iterations without a message.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from traceback import walk_tb
from typing import Any

from mmcv.transforms import BaseTransform
from mmdet.registry import EVALUATOR
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from ..errors import (
    ConfigError,
    MkdError,
    as_config_error,
    describe_exception,
    is_integer,
)
from .checks.evaluators import check_parts
from .datasets import dataset_class, leaf_datasets, reads_standard_format

# Where mmengine gathers the results of several processes.
_COLLECT = ('cpu', 'gpu', 'npu')


def check_loaders(
    cfg: Mapping[str, Any], splits: Sequence[str] = ('train', 'val')
) -> dict[str, DataLoader]:
    """Build datasets, samplers, loaders and evaluators, and load one sample.

    Call it after `check_data`, whose messages about files are more precise. Everything
    is built in addition to what the runner builds: this takes a second for some
    thousand images, and 30 s of one core for a json as large as COCO's train2017.

    Args:
        cfg: The config, with `train_dataloader` etc.
        splits: Splits to check. 'train' must be complete; 'val' and 'test' must be
            complete or absent.

    Returns:
        The loaders by split.

    Raises:
        ConfigError: A part cannot be built, a dataset is empty, an epoch has no
            iteration, or the pipeline yields nothing to train on.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    # Created now: otherwise its handler would keep the redirected stdout below.
    MMLogger.get_current_instance()
    loaders = {}
    for split in splits:
        if not _has_parts(cfg, split):
            continue
        # pycocotools prints its progress.
        with contextlib.redirect_stdout(io.StringIO()):
            loader = _check_loader(cfg[f'{split}_dataloader'], split)
            if split != 'train':
                _check_evaluator(cfg[f'{split}_evaluator'], loader.dataset, split)
        loaders[split] = loader
    return loaders


def _has_parts(cfg: Mapping[str, Any], split: str) -> bool:
    """Return whether a split is used; raise ConfigError if a part of it is missing."""
    last = [] if split == 'train' else [f'{split}_evaluator']
    parts = [f'{split}_dataloader', f'{split}_cfg', *last]
    missing = [name for name in parts if cfg.get(name) is None]
    if missing and (split == 'train' or len(missing) < len(parts)):
        raise ConfigError(
            f'the config has no {missing[0]}',
            expected=', '.join(parts) + ('' if split == 'train' else ', or none of it'),
            fix=f'{missing[0]}=dict(...)',
        )
    return not missing


def _check_loader(cfg: Mapping[str, Any], split: str) -> DataLoader:
    """Build a loader as a runner does, load one sample, and return the loader."""
    where = f'{split}_dataloader'
    size = cfg.get('batch_size', 1)
    if not is_integer(size) or size < 1:
        raise ConfigError(
            f'{where}: batch_size must be an integer >= 1', actual=repr(size)
        )
    ahead = cfg.get('prefetch_factor')
    if ahead is not None and (not is_integer(ahead) or ahead < 1):
        # torch notices when the workers start.
        raise ConfigError(
            f'{where}: prefetch_factor must be an integer >= 1', actual=repr(ahead)
        )
    cfg = deepcopy(cfg)
    for leaf in leaf_datasets({where: cfg}, split):
        if reads_standard_format(dataset_class(leaf, split)):
            # Takes time for large data, and mmengine fails for empty data.
            leaf['serialize_data'] = False  # type: ignore[index]
    with as_config_error(where):
        loader = Runner.build_dataloader(cfg, seed=0)
    for dataset in (loader.dataset, *_parts(loader.dataset)):
        if not len(dataset):
            raise ConfigError(
                f'{where}: {type(dataset).__name__} has no image',
                expected='at least one image after filter_cfg, indices and wrappers',
                fix=f'correct filter_cfg, indices and times in {where}.dataset',
            )
    _check_sources(loader, size, where)
    with as_config_error(f'{where}: a batch'):
        batch = next(iter(loader.batch_sampler), None)
    if batch is None:
        raise ConfigError(
            f'{where}: an epoch has no iteration',
            expected='at least one batch',
            actual=f'{len(loader.dataset)} images, batch_size={size},'
            f' drop_last={cfg.get("drop_last", False)}',
            fix='a smaller batch_size, or drop_last=False',
        )
    check_sample(loader.dataset, f'{where}: the pipeline', split == 'train')
    return loader


def _check_sources(loader: DataLoader, size: int, where: str) -> None:
    """Raise where a sampler over several sources fills no batch as it should.

    `MultiSourceSampler` and `GroupMultiSourceSampler` look for ever for images of a
    source that gives none, and know the batch size by an argument of their own.

    Args:
        loader: A loader.
        size: Its batch size.
        where: Its name, for messages.
    """
    sampler: Any = loader.sampler
    counts = getattr(sampler, 'num_per_source', None)
    if counts is None:
        return
    name = f'{where}: {type(sampler).__name__}'
    if sampler.batch_size != size:
        raise ConfigError(
            f'{name} counts batches of another size than the loader',
            expected=f'batch_size={size} in both',
            actual=f'{sampler.batch_size} in the sampler, {size} in the loader',
            fix=f'{where}.sampler.batch_size={size}',
        )
    if min(counts) < 1:
        raise ConfigError(
            f'{name} takes no image of a source',
            expected='at least one of each in a batch',
            actual=f'source_ratio={sampler.source_ratio} of {size}: {counts}',
            fix='a larger batch_size, or a source_ratio of more even parts',
        )
    # Of groups of wide and of high images; each batch is of one group.
    groups = getattr(sampler, 'group2size_per_source', [])
    for group, share in enumerate(getattr(sampler, 'group_ratio', ())):
        sizes = [of_source[group] for of_source in groups[: len(counts)]]
        if share and not all(sizes):
            raise ConfigError(
                f'{name}: a source has no image of a group that another one has',
                expected='wide images in all sources or in none; high ones likewise',
                actual=f'{("high", "wide")[group]} images by source: {sizes}',
                fix=f"{where}.sampler.type='MultiSourceSampler'",
            )


def _parts(dataset: Any) -> Iterator[Any]:
    """Yield the datasets inside wrappers."""
    inside = [*(getattr(dataset, 'datasets', None) or ())]
    for part in [*inside, getattr(dataset, 'dataset', None)]:
        if isinstance(part, Dataset):
            yield part
            yield from _parts(part)


def check_sample(dataset: Any, what: str, train: bool) -> None:
    """Load the first sample of a data set, and check it.

    Args:
        dataset: The data set, built.
        what: What the sample is of, for messages.
        train: Whether it is trained on.

    Raises:
        ConfigError: The pipeline fails, or does not yield what a model needs.
    """
    item = load_sample(dataset, 0, what)
    what = f'{what}: a sample'
    if not isinstance(item, Mapping) or 'inputs' not in item:
        raise ConfigError(
            f'{what} has no inputs',
            expected='a dict with inputs and data_samples',
            actual=sorted(item) if isinstance(item, Mapping) else type(item).__name__,
            fix="dict(type='PackDetInputs') at the end of the pipeline",
        )
    boxes = getattr(item.get('data_samples'), 'gt_instances', None)
    if not train or boxes is None:
        return
    missing = [key for key in ('bboxes', 'labels') if key not in boxes]
    if missing:
        raise ConfigError(
            f'{what} has no {missing[0]} to train on',
            expected='gt_instances with bboxes and labels',
            actual=boxes.keys(),
            fix="dict(type='LoadAnnotations', with_bbox=True) in the pipeline",
        )


def load_sample(dataset: Any, index: int, what: str) -> Any:
    """Return a sample of a data set.

    Args:
        dataset: The data set, built.
        index: Number of the sample.
        what: What the sample is of, for messages.

    Raises:
        ConfigError: The pipeline fails.
    """
    with as_config_error(f'{what}: a sample'), _naming_transform(what):
        return dataset[index]


@contextlib.contextmanager
def _naming_transform(what: str) -> Iterator[None]:
    """Name the transform that fails inside of the context.

    Args:
        what: What the sample is of, for messages.

    Raises:
        ConfigError: A transform has failed, with what it lacks.
    """
    try:
        yield
    except MkdError:
        raise
    except Exception as error:
        frames = [frame for frame, _ in walk_tb(error.__traceback__)]
        owners = [frame.f_locals.get('self') for frame in frames]
        # The last: a pipeline inside of another is a transform, too.
        failed = [owner for owner in owners if isinstance(owner, BaseTransform)][-1:]
        if not failed:
            raise
        name = type(failed[0]).__name__
        fix = f'without {name}, or with what it needs before it in the pipeline'
        if isinstance(error, KeyError) and error.args:
            fix = (
                f'before {name}, a transform that yields {error.args[0]!r}; or without'
            )
        seen = frames[-1].f_locals.get('results')
        if isinstance(seen, Mapping) and 'img' not in seen:
            fix = "dict(type='LoadImageFromFile') at the start of the pipeline"
        if hasattr(failed[0], 'get_indexes'):
            fix = (
                f"{name} mixes images: dict(type='MultiImageMixDataset',"
                f" dataset=..., pipeline=[dict(type='{name}'), ...])"
            )
        raise ConfigError(
            f'{what}: {name} fails for a sample',
            actual=describe_exception(error),
            fix=fix,
        ) from error


def _check_evaluator(cfg: Any, dataset: Any, split: str) -> None:
    """Build the evaluator of a dataset as `Runner.build_evaluator` does."""
    metrics = cfg if isinstance(cfg, list) else [cfg]
    if not all(isinstance(metric, Mapping) for metric in metrics):
        raise ConfigError(
            f'{split}_evaluator must be a dict, or a list of them', actual=repr(cfg)
        )
    with as_config_error(f'{split}_evaluator'):
        if isinstance(cfg, Mapping) and 'metrics' in cfg:
            evaluator = EVALUATOR.build({'type': 'Evaluator', **deepcopy(cfg)})
        else:
            evaluator = Evaluator(deepcopy(cfg))
    for metric in evaluator.metrics:
        device = getattr(metric, 'collect_device', 'cpu')
        if device not in _COLLECT:
            raise ConfigError(
                f'{split}_evaluator: collect_device of {type(metric).__name__} is none',
                actual=repr(device),
                available=_COLLECT,
            )
    check_parts(evaluator, dataset, f'{split}_evaluator')
