"""Checks that run before training starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIMIZERS
from torch import Tensor, nn

from ..checkpoints.checkpoint import (
    check_weight_values,
    extract_state_dict,
    read_checkpoint,
    read_meta,
)
from ..checkpoints.shape_mismatch import describe_difference
from ..class_maps.counting import class_count
from ..contrib.row_conv import middle_row
from ..data import check_data, check_loaders
from ..data.datasets import dataset_classes
from ..distiller.model import Distiller
from ..errors import CheckpointKeysError, ConfigError, as_config_error, nearest_names
from ..io.paths import check_writable_folder
from ..io.quiet import suppress_info_logs
from ..registry import type_name
from ..training.class_order import check_class_order, check_start_labels
from ..training.resume import check_resume
from ..training.runtime import build_model, is_distill
from .epoch_counting import check_epoch_counting
from .hook_checks import check_hooks
from .images.stored import check_stored_teachers
from .images.unlabeled import check_infinite_sampler, check_unlabeled
from .model_settings import check_initializers, check_test_settings
from .optimizer_settings import (
    check_clip,
    check_rates,
    check_schedules,
    check_wrapper_settings,
)
from .pipeline_switches import check_pipeline_switches
from .runner_parts import check_runner_parts, check_submodules
from .runner_settings import check_length, check_runner_settings, has_stock_runner

# Class names of the data by split; None where they are not known.
Classes = Mapping[str, tuple[str, ...] | None]


def check_before_start(cfg: Config, teachers: bool = True) -> nn.Module:
    """Raise a typed error for everything that would stop the training later.

    Builds the model to check its plan and files. The runner builds another one after it
    has set the seed.

    Args:
        cfg: The config of the runner.
        teachers: Whether to load and check the teachers. False if their checkpoints do
            not exist yet.

    Returns:
        The model.

    Raises:
        MkdError: The training cannot run.
    """
    check_runner_settings(cfg)
    stock = has_stock_runner(cfg)
    if stock:
        check_length(cfg)
        check_runner_parts(cfg)
        check_infinite_sampler(cfg)
    _check_folders(cfg)
    check_test_settings(cfg.model)
    check_data(cfg)
    model = build_model(cfg)
    classes = {split: dataset_classes(cfg, split) for split in ('train', 'val')}
    check_count(classes, model.student if isinstance(model, Distiller) else model)
    if isinstance(model, Distiller) and teachers:
        model.teachers.load()
    check_class_order(cfg, model, teachers)
    wrapper = check_optimizer(cfg, model)
    check_epoch_counting(cfg, model)
    check_hooks(cfg, model)
    check_submodules(cfg, model)
    loaders = check_loaders(cfg)
    check_unlabeled(loaders['train'].dataset, model)
    check_stored_teachers(cfg, model, loaders['train'].dataset)
    check_pipeline_switches(cfg, model, loaders['train'].dataset)
    if stock and wrapper is not None:
        check_schedules(cfg, wrapper, loaders)
    if cfg.get('resume'):
        check_resume(cfg, model)
    elif cfg.get('load_from'):
        check_start(model.state_dict(), cfg.load_from)
    check_initializers(model)
    check_pretrained(model)
    for what, path in _whole_starts(cfg, model).items():
        check_start_labels(cfg, read_meta(read_checkpoint(path)), f'{what} {path}')
    return model


def _whole_starts(cfg: Config, model: nn.Module) -> dict[str, str]:
    """Return the checkpoints that fill the whole student, by the key naming them."""
    starts: dict[str, Any] = {}
    if not cfg.get('resume'):
        starts['load_from'] = cfg.get('load_from')
    student = model.student if isinstance(model, Distiller) else model
    given = getattr(student, 'init_cfg', None)
    if isinstance(given, Mapping) and given.get('type') == 'Pretrained':
        starts['init_cfg'] = given.get('checkpoint')
    return {
        what: path for what, path in starts.items() if isinstance(path, str) and path
    }


def _check_folders(cfg: Config) -> None:
    """Raise ConfigError for a folder that the training cannot write to."""
    check_writable_folder(cfg.work_dir, '--work-dir')
    out_dir = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('out_dir')
    if out_dir is not None and '://' not in str(out_dir):
        check_writable_folder(out_dir, 'default_hooks.checkpoint.out_dir')
    teachers = cfg.model.get('teachers') if is_distill(cfg) else None
    for name, teacher in teachers.items() if isinstance(teachers, dict) else ():
        cache = teacher.get('cache') if isinstance(teacher, dict) else None
        if cache is not None and not os.path.isdir(cache):  # it may be read alone
            check_writable_folder(cache, f'teachers.{name}.cache')


def check_count(classes: Classes, student: nn.Module) -> None:
    """Raise unless the student has as many classes as the data.

    Args:
        classes: Class names of the data by split.
        student: The plain student.

    Raises:
        ConfigError: The numbers of classes differ.
    """
    own = class_count(student)
    for split, names in classes.items():
        if own is not None and names and own != len(names):
            raise ConfigError(
                f'the student has {own} classes, the {split} data has {len(names)}',
                expected=f'num_classes={len(names)}',
                actual=f'num_classes={own}',
                fix=f'num_classes={len(names)} in the head of the student, or other'
                ' metainfo.classes of the data',
            )


def check_optimizer(cfg: Config, model: nn.Module) -> OptimWrapper | None:
    """Return the optimizer; None for several optimizers by name.

    Args:
        cfg: Config of a training.
        model: Its model.

    Raises:
        ConfigError: It cannot be built for the model, or cannot clip gradients.
    """
    if not {'optimizer', 'constructor'} & set(cfg.optim_wrapper):
        return None
    kind = (cfg.optim_wrapper.get('optimizer') or {}).get('type')
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        raise ConfigError(
            f'optim_wrapper: there is no optimizer {kind!r}',
            actual=kind,
            available=nearest_names(kind, OPTIMIZERS.module_dict),
        )
    check_wrapper_settings(cfg.optim_wrapper)
    wrapper: Any = None
    with suppress_info_logs(), as_config_error('optim_wrapper'):
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    check_clip(wrapper)
    check_rates(wrapper)
    return wrapper


def check_pretrained(model: nn.Module) -> None:
    """Raise unless the files of `init_cfg` exist and fit the parts of the model.

    mmengine loads these files last, and silently skips tensors that do not fit.

    Args:
        model: The model, or a distiller. It is not changed.

    Raises:
        CheckpointError: A file of an `init_cfg` is missing, or of another model.
    """
    # A distiller's state dict has the keys of the plain student.
    state = model.state_dict()
    if isinstance(model, Distiller):
        model = model.student
    for path, module in model.named_modules():
        prefix = f'{path}.' if path else ''
        own = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
        }
        cfgs = getattr(module, 'init_cfg', None) or []
        for cfg in [cfgs] if isinstance(cfgs, dict) else cfgs:
            if cfg.get('type') == 'Pretrained':
                what = f'init_cfg of {path or "the model"}'
                check_start(own, cfg['checkpoint'], what, cfg.get('prefix') or '')


def check_start(
    own: Mapping[str, Tensor], path: str, what: str = 'load_from', prefix: str = ''
) -> None:
    """Raise unless a checkpoint fits at least half of the model that starts from it.

    As in mmdet, a part of the model may differ, such as a head for other classes; its
    tensors are printed.

    Args:
        own: State dict of the model, or of a part of it.
        path: The checkpoint.
        what: The key of the config that names it, for messages.
        prefix: Prefix of the checkpoint's keys for this part.

    Raises:
        CheckpointKeysError: Less than half of the model is in the checkpoint.
    """
    if not isinstance(path, str):
        raise ConfigError(
            f'{what} must be a path or an address',
            actual=repr(path),
            expected='a string',
        )
    weights = extract_state_dict(read_checkpoint(path), path)
    if prefix:
        prefix = prefix.removesuffix('.') + '.'
        weights = {k: v for k, v in weights.items() if k.startswith(prefix)}
    weights = {k.removeprefix(prefix or 'module.'): v for k, v in weights.items()}
    rows = {k: middle_row(v, own[k]) for k, v in weights.items() if k in own}
    cut = [k for k, v in rows.items() if v is not weights[k]]
    if cut:
        print(f'{what}: uses the middle rows of {len(cut)} kernels of {path}')
    weights |= rows
    check_weight_values(weights, own, f'{what}: checkpoint {path}')
    rest = [
        k for k, v in own.items() if k not in weights or weights[k].shape != v.shape
    ]
    if 2 * len(rest) > len(own):
        difference = describe_difference(own, weights)
        raise CheckpointKeysError(
            f'{what}: checkpoint {path} is of another model: {len(rest)} of {len(own)}'
            ' tensors are missing or have another shape'
            + (f'; {difference}' if difference else ''),
            expected=', '.join(prefix + key for key in rest[:4]),
            actual=', '.join([k for k in weights if k not in own][:4]) or None,
            fix=f'use a checkpoint of this model, or remove {what}',
        )
    if rest:
        print(f'{what}: not in {path}, newly initialised: ' + ', '.join(rest))


def check_optim_wrapper(cfg: Config) -> None:
    """Raise ConfigError unless the config has an `optim_wrapper`."""
    if not isinstance(cfg.get('optim_wrapper'), dict):
        raise ConfigError(
            'the config has no `optim_wrapper`, which training needs',
            expected='a dict',
            actual=repr(cfg.get('optim_wrapper')),
            fix="optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01))",
        )


def check_amp(cfg: Config) -> None:
    """Raise ConfigError for mixed precision without a GPU."""
    check_optim_wrapper(cfg)
    kind = type_name(cfg.optim_wrapper.get('type'))
    if kind == 'AmpOptimWrapper' and get_device() == 'cpu':
        raise ConfigError(
            'mixed precision (AmpOptimWrapper) needs a GPU, and none was found',
            fix="--cfg-options optim_wrapper.type='OptimWrapper', without --amp",
        )
