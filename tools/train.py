#!/usr/bin/env python
"""Trains a student with its teachers, or any plain model.

    python tools/train.py configs/bccd/gfl_mkd_r18-w64_r18-w16_bccd.py

All that can be known to be wrong (config, plan, teacher files, data, the
checkpoint to resume from) is looked at first. Nothing is written before.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import _environment  # noqa: F401

from mkd_det.cli import (
    add_launcher,
    build_model,
    check_amp,
    check_optim_wrapper,
    config_parser,
    join_processes,
    main_guard,
    set_work_dir,
)
from mkd_det.configs import load_config
from mkd_det.errors import CheckpointKeysError, ConfigError
from mkd_det.resuming import has_begun

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

    from mkd_det.distiller import Distiller

# Names of the classes, where they are known, by split.
Classes = Mapping[str, tuple[str, ...] | None]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """mmdet's own arguments, and `--debug`."""
    parser = config_parser(__doc__)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--amp', action='store_true', help='automatic mixed precision training'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the batch size',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from this checkpoint; without a path, from the latest one in'
        ' the work dir',
    )
    add_launcher(parser)
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def apply_args(cfg: Config, args: argparse.Namespace) -> None:
    """Put the arguments into the config.

    Raises:
        ConfigError: An argument needs what the config or machine lacks.
    """
    check_optim_wrapper(cfg)
    cfg.launcher = args.launcher
    set_work_dir(cfg, args.config, args.work_dir)
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        scaling = cfg.get('auto_scale_lr') or {}
        if 'base_batch_size' not in scaling:
            raise ConfigError(
                '--auto-scale-lr needs the batch size that the learning rate is for',
                expected='auto_scale_lr in the config',
                actual=dict(scaling) or None,
                hint='auto_scale_lr = dict(enable=True, base_batch_size=16)',
            )
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        if not args.resume.strip():
            raise ConfigError(
                '--resume is empty',
                expected='a checkpoint; or --resume alone, for the latest one',
                actual=repr(args.resume),
            )
        if args.resume != 'auto':
            cfg.resume, cfg.load_from = True, args.resume
        elif has_begun(cfg.work_dir) or not cfg.get('load_from'):
            cfg.resume, cfg.load_from = True, None
        else:
            # What a training starts from is not lost because it could be resumed.
            print(f'Nothing to resume in {cfg.work_dir}: starts from {cfg.load_from}')
    check_amp(cfg)


def check_before_start(cfg: Config, teachers: bool = True) -> nn.Module:
    """Raise a typed error for anything that would stop the run later.

    Builds the model once for its plan and files; the runner builds its own, after it
    has set the seed.

    Args:
        cfg: The config, as the runner will get it.
        teachers: Whether their checkpoints are there already.

    Returns:
        The model.
    """
    from mkd_det.data import check_data, check_loaders
    from mkd_det.data.check import classes_of
    from mkd_det.distiller import Distiller
    from mkd_det.places import check_folder
    from mkd_det.resuming import check_resume

    check_folder(cfg.work_dir, '--work-dir')
    check_data(cfg)
    model = build_model(cfg)
    classes = {split: classes_of(cfg, split) for split in ('train', 'val')}
    check_count(classes, model.student if isinstance(model, Distiller) else model)
    if isinstance(model, Distiller) and teachers:
        model.teachers.load()
        check_classes(cfg, classes, model)
    check_optimizer(cfg, model)
    check_loaders(cfg)
    if cfg.get('resume'):
        check_resume(cfg, model)
    elif cfg.get('load_from'):
        check_start(model, cfg.load_from)
    check_pretrained(model)
    return model


def check_count(classes: Classes, student: nn.Module) -> None:
    """Raise unless the student tells as many classes apart as the data has.

    Raises:
        ConfigError: It does not.
    """
    from mkd_det.runtime import class_count

    own = class_count(student)
    for split, names in classes.items():
        if own is not None and names and own != len(names):
            raise ConfigError(
                f'the student tells {own} classes apart, the {split} data has'
                f' {len(names)}',
                expected=f'num_classes={len(names)}',
                actual=f'num_classes={own}',
                hint='num_classes of the student, and the classes of the data, as they'
                ' belong together',
            )


def check_classes(cfg: Config, classes: Classes, model: Distiller) -> None:
    """Raise unless the teachers were trained on the classes of the data."""
    hooks = [*cfg.get('default_hooks', {}).values(), *(cfg.get('custom_hooks') or [])]
    if any(isinstance(h, dict) and h.get('check_classes') is False for h in hooks):
        return
    # Its chance is looked at on the validation data, which may have others.
    for names in classes.values():
        for name, teacher in model.teachers.items():
            if names and name in model.plan.taps:
                teacher.check_classes(names)


def check_optimizer(cfg: Config, model: nn.Module) -> None:
    """Raise ConfigError unless the optimizer can be built for the model."""
    import logging

    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import OPTIMIZERS

    from mkd_det.errors import building, nearest

    if not {'optimizer', 'constructor'} & set(cfg.optim_wrapper):
        return  # several of them, by name
    kind = (cfg.optim_wrapper.get('optimizer') or {}).get('type')
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        raise ConfigError(
            f'there is no optimizer {kind!r}',
            available=nearest(kind, OPTIMIZERS.module_dict),
        )
    logging.disable(logging.INFO)  # a line for each parameter, as once more later
    try:
        with building('optim_wrapper'):
            build_optim_wrapper(model, cfg.optim_wrapper)
    finally:
        logging.disable(logging.NOTSET)


def check_pretrained(model: nn.Module) -> None:
    """Raise unless the weights that parts of the model start from are there and fit.

    mmengine looks for the files after all else, and loads of them what fits. The model
    of a distiller is left without its branches, as when weights are initialised.

    Raises:
        CheckpointError: A file of an `init_cfg` is missing, or of another model.
    """
    from mkd_det.distiller import Distiller

    if isinstance(model, Distiller):
        for branch in model.branches.values():
            branch.detach()
        model = model.student
    for path, module in model.named_modules():
        cfgs = getattr(module, 'init_cfg', None) or []
        for cfg in [cfgs] if isinstance(cfgs, dict) else cfgs:
            if cfg.get('type') == 'Pretrained':
                what = f'init_cfg of {path or "the model"}'
                check_start(module, cfg['checkpoint'], what, cfg.get('prefix') or '')


def check_start(
    model: nn.Module, path: str, what: str = 'load_from', prefix: str = ''
) -> None:
    """Raise unless the weights to start from are those of a model like this one.

    As with mmdet, a part may differ (a head for other classes): it is named. But what
    fits must be more than half of the model.

    Args:
        model: The model, or a part of it.
        path: The checkpoint.
        what: What names it in the config, for messages.
        prefix: Of the keys that are for this part.

    Raises:
        CheckpointKeysError: Little or nothing of the checkpoint fits.
    """
    from mkd_det.checkpoint import check_numbers, read_checkpoint, weights_of
    from mkd_det.row_conv import middle_row

    if not isinstance(path, str):
        raise ConfigError(
            f'{what} must be a path or an address',
            actual=repr(path),
            expected='a string',
        )
    if '://' in path:
        return  # downloaded by mmengine, under names of its own
    weights = weights_of(read_checkpoint(path), path)
    if prefix:
        prefix = prefix.removesuffix('.') + '.'
        weights = {k: v for k, v in weights.items() if k.startswith(prefix)}
    weights = {k.removeprefix(prefix or 'module.'): v for k, v in weights.items()}
    own = model.state_dict()
    rows = {k: middle_row(v, own[k]) for k, v in weights.items() if k in own}
    cut = [k for k, v in rows.items() if v is not weights[k]]
    if cut:
        print(f'{what}: {len(cut)} kernels of {path} give their middle rows')
    weights |= rows
    check_numbers(weights, own, f'{what}: checkpoint {path}')
    rest = [
        k for k, v in own.items() if k not in weights or weights[k].shape != v.shape
    ]
    if 2 * len(rest) > len(own):
        raise CheckpointKeysError(
            f'{what}: checkpoint {path} is of another model: {len(rest)} of {len(own)}'
            ' tensors are not in it, or of another shape',
            expected=', '.join(prefix + key for key in rest[:4]),
            actual=', '.join([k for k in weights if k not in own][:4]) or None,
            hint=f'a checkpoint of this model, or no {what}',
        )
    if rest:
        print(f'{what}: starts anew, not from {path}: ' + ', '.join(rest))


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Check, then train."""
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    apply_args(cfg, args)

    from mmdet.utils import setup_cache_size_limit_of_dynamo
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    from mkd_det.hooks import LastValidationHook
    from mkd_det.hooks.safe_checkpoint_hook import save_safely
    from mkd_det.quiet import quiet_warnings
    from mkd_det.runtime import prepare

    quiet_warnings()
    setup_cache_size_limit_of_dynamo()
    cfg = prepare(cfg)
    check_before_start(cfg)
    join_processes(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    save_safely(runner)
    if cfg.get('resume'):
        runner.register_hook(LastValidationHook())
    runner.train()


if __name__ == '__main__':
    raise SystemExit(main())
