"""Tries the pipelines that hooks switch to in the middle of a training.

A pipeline that does not fit the data set is otherwise found when the switch comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmcv.transforms import Compose
from mmdet.datasets import MultiImageMixDataset
from mmdet.engine.hooks import PipelineSwitchHook, YOLOXModeSwitchHook
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import HOOKS
from torch import nn
from torch.utils.data import Dataset

from ..data.loaders import check_sample
from ..errors import ConfigError, as_config_error, is_integer, nearest_names
from ..io.random_state import preserved_random_state
from ..registry import type_name
from .hook_checks import hooks_of

# What YOLOXModeSwitchHook skips by default.
_SKIPPED = ('Mosaic', 'RandomAffine', 'MixUp')


def check_pipeline_switches(cfg: Config, model: nn.Module, dataset: Dataset) -> None:
    """Load one sample through each pipeline that a hook will switch to.

    Args:
        cfg: Config of a training.
        model: Its model.
        dataset: Its training data, built.

    Raises:
        ConfigError: A pipeline cannot be built, yields nothing to train on, or would
            not be used by this data set.
    """
    if isinstance(dataset, MultiImageMixDataset):
        own = dataset._skip_type_keys
        _check_skipped(own or (), dataset, 'MultiImageMixDataset.skip_type_keys', ())
    for hook in hooks_of(cfg):
        kind = hook.get('type')
        if isinstance(kind, str):
            with HOOKS.switch_scope_and_registry(None) as registry:
                kind = registry.get(kind)
        if not isinstance(kind, type):
            continue
        with preserved_random_state():
            if issubclass(kind, YOLOXModeSwitchHook):
                _check_mode(hook, model, dataset)
            else:
                known = issubclass(kind, PipelineSwitchHook)
                for name, pipeline in _pipelines(hook):
                    where = f'{kind.__name__}.{name}'
                    _check_pipeline(pipeline, dataset, where, known)
        if issubclass(kind, PipelineSwitchHook):
            _check_epoch(hook)


def _pipelines(hook: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield arguments of a hook that are pipelines, of whatever hook."""
    for name, value in hook.items():
        listed = isinstance(value, (list, tuple)) and len(value) > 0
        if 'pipeline' in name and listed and all(isinstance(v, dict) for v in value):
            yield name, value


def _check_pipeline(pipeline: Any, dataset: Any, where: str, known: bool) -> None:
    """Load a sample through a pipeline.

    Args:
        pipeline: Configs of transforms.
        dataset: The training data.
        where: Name of the pipeline, for messages.
        known: Whether the hook is known to set `pipeline` of the data set.
    """
    with as_config_error(where):
        built = Compose(pipeline)
    if not isinstance(dataset, BaseDataset):
        if known:
            raise ConfigError(
                f'{where}: {type(dataset).__name__} would not use the new pipeline',
                expected='a data set with a pipeline of its own, such as CocoDataset',
                actual=f'train_dataloader.dataset of type {type(dataset).__name__}',
                fix='the data set without wrapper; or YOLOXModeSwitchHook, for a'
                ' MultiImageMixDataset',
            )
        return
    with _replaced(dataset, 'pipeline', built):
        check_sample(dataset, where, train=True)


def _check_mode(hook: Mapping[str, Any], model: Any, dataset: Any) -> None:
    """Load a sample as YOLOX does in its last epochs."""
    where = 'YOLOXModeSwitchHook'
    keys = hook.get('skip_type_keys', _SKIPPED)
    if not isinstance(dataset, MultiImageMixDataset):
        raise ConfigError(
            f'{where}: {type(dataset).__name__} has no transforms that can be skipped',
            expected="train_dataloader.dataset of type 'MultiImageMixDataset'",
            actual=type(dataset).__name__,
            fix='PipelineSwitchHook, or without the hook',
        )
    names = [type_name(kind) for kind in dataset.pipeline_types]
    missed = [
        name
        for name, kind in zip(names, dataset.pipeline_types)
        if name in keys and kind not in keys
    ]
    if missed:
        raise ConfigError(
            f'{where}: {missed[0]} would not be skipped, since names are compared',
            expected=f'type={missed[0]!r} in the pipeline',
            actual=repr(dataset.pipeline_types[names.index(missed[0])]),
            fix=f'dict(type={missed[0]!r}, ...), the name instead of the class, with'
            " default_scope = 'mmdet'",
        )
    _check_skipped(keys, dataset, f'{where}.skip_type_keys', _SKIPPED)
    owner = getattr(model, 'detector', model)
    if not hasattr(owner, 'bbox_head'):
        raise ConfigError(
            f'{where}: the model has no bbox_head, whose L1 loss it switches on',
            actual=type(getattr(owner, 'student', owner)).__name__,
            fix='PipelineSwitchHook, or without the hook',
        )
    with as_config_error(where), _replaced(dataset, '_skip_type_keys', None):
        dataset.update_skip_type_keys(keys)
        check_sample(
            dataset, f'{where}: the data without {", ".join(keys)}', train=True
        )


def _check_skipped(
    keys: Sequence[str], dataset: MultiImageMixDataset, where: str, may_lack: Any
) -> None:
    """Raise ConfigError for names that skip nothing.

    Args:
        keys: Names of transforms.
        dataset: The training data.
        where: Where the names stand, for messages.
        may_lack: Names of which some may be missing: those of a default.
    """
    names = [type_name(kind) for kind in dataset.pipeline_types]
    lacking = [key for key in keys if key not in names]
    wrong = [key for key in lacking if key not in may_lack]
    if len(lacking) == len(keys):
        wrong = wrong or lacking
    if wrong:
        raise ConfigError(
            f'{where}: the pipeline has no {wrong[0]!r} to skip',
            actual=wrong[0],
            available=nearest_names(str(wrong[0]), names),
            fix=f'skip_type_keys={_present(keys, names)}' if keys != lacking else '',
        )


def _present(keys: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(key for key in keys if key in names)


def _check_epoch(hook: Mapping[str, Any]) -> None:
    epoch = hook.get('switch_epoch')
    if not is_integer(epoch) or epoch < 0:  # type: ignore[operator]
        raise ConfigError(
            'PipelineSwitchHook: switch_epoch must be a whole number',
            actual=repr(epoch),
            fix='switch_epoch=280',
        )


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute inside of the context."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
