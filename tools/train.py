#!/usr/bin/env python
"""Trains a student with its teachers, or any plain mmdet model.

    python tools/train.py configs/bccd/gfl_mkd_r18-w64_r18-w16_bccd.py

All that can be known to be wrong (config, plan, teacher files, data, the
checkpoint to resume from) is looked at first. Nothing is written before.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mkd_det.cli import (
    add_launcher,
    build_model,
    check_amp,
    config_parser,
    join_processes,
    load_config,
    main_guard,
    set_work_dir,
)
from mkd_det.errors import (
    CheckpointFileError,
    CheckpointKeysError,
    ConfigError,
    ResumeError,
)

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

    from mkd_det.distiller import Distiller


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
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    check_amp(cfg)


def check_before_start(cfg: Config) -> None:
    """Raise a typed error for anything that would stop the run later.

    Builds the model once for its plan and files, and lets it go: the runner
    builds its own, after it has set the seed.
    """
    from mkd_det.data import check_data
    from mkd_det.distiller import Distiller

    check_data(cfg)
    model = build_model(cfg)
    if isinstance(model, Distiller):
        model.teachers.load()
        check_classes(cfg, model)
    if cfg.get('resume'):
        check_resume(model, resume_path(cfg))
    elif cfg.get('load_from'):
        check_start(model, cfg.load_from)


def check_classes(cfg: Config, model: Distiller) -> None:
    """Raise unless the teachers were trained on the classes of the data."""
    from mkd_det.data.check import classes_of

    hooks = [*cfg.get('default_hooks', {}).values(), *(cfg.get('custom_hooks') or [])]
    if any(isinstance(h, dict) and h.get('check_classes') is False for h in hooks):
        return
    classes = classes_of(cfg)
    for name, teacher in model.teachers.items():
        if classes and name in model.plan.taps:
            teacher.check_classes(classes)


def check_start(model: nn.Module, path: str) -> None:
    """Raise unless the weights to start from are those of a model like this one.

    As with mmdet, a part may differ (a head for other classes): it is named. But what
    fits must be more than half of the model.

    Raises:
        CheckpointKeysError: Little or nothing of the checkpoint fits.
    """
    from mkd_det.checkpoint import read_checkpoint, weights_of

    if '://' in path:
        return  # downloaded by mmengine, under names of its own
    weights = weights_of(read_checkpoint(path), path)
    weights = {k.removeprefix('module.'): v for k, v in weights.items()}
    own = model.state_dict()
    rest = [
        k for k, v in own.items() if k not in weights or weights[k].shape != v.shape
    ]
    if 2 * len(rest) > len(own):
        raise CheckpointKeysError(
            f'load_from: checkpoint {path} is of another model: {len(rest)} of'
            f' {len(own)} tensors of the student are not in it',
            expected=', '.join(rest[:4]),
            actual=', '.join([k for k in weights if k not in own][:4]) or None,
            hint='a checkpoint of the student, or no `load_from`',
        )
    if rest:
        print(f'load_from: starts anew, not from {path}: ' + ', '.join(rest))


def resume_path(cfg: Config) -> str | None:
    """The checkpoint to go on from; None for a fresh start.

    Raises:
        ResumeError: The work dir names a checkpoint that is gone.
    """
    if cfg.get('load_from'):
        return cfg.load_from
    note = Path(cfg.work_dir, 'last_checkpoint')
    if not note.is_file():
        return None
    path = note.read_text().strip()
    if '://' not in path and not Path(path).is_file():
        raise ResumeError(
            f'{note} names a checkpoint that is gone',
            actual=path,
            available=[str(p) for p in sorted(Path(cfg.work_dir).glob('*.pth'))],
            hint='--resume with one of these',
        )
    return path


def check_resume(model: nn.Module, path: str | None) -> None:
    """Raise ResumeError unless `model` can go on from the checkpoint."""
    from mkd_det.checkpoint import read_checkpoint
    from mkd_det.distiller import Distiller
    from mkd_det.hooks.resume_state_hook import check_resumable

    if path is None:
        return
    try:
        content = read_checkpoint(path)
    except CheckpointFileError as error:
        raise ResumeError(
            error.message,
            expected=error.expected,
            actual=error.actual,
            available=error.available,
        ) from error
    if isinstance(model, Distiller):
        check_resumable(content, model.plan.describe())
    elif 'optimizer' not in content:
        raise ResumeError(
            f'checkpoint {path} holds weights, but no state to go on from',
            expected='an optimizer, as in epoch_*.pth',
            hint=f"load_from='{path}' without resume: start from its weights",
        )
    try:
        model.load_state_dict(content['state_dict'], strict=True)
    except RuntimeError as error:
        raise ResumeError(
            f'checkpoint {path} is of another model than the config describes',
            actual=str(error).splitlines()[1].strip(),
        ) from error


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Check, then train."""
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    apply_args(cfg, args)

    from mmdet.utils import setup_cache_size_limit_of_dynamo
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    from mkd_det.runtime import prepare

    setup_cache_size_limit_of_dynamo()
    cfg = prepare(cfg)
    check_before_start(cfg)
    join_processes(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.train()


if __name__ == '__main__':
    raise SystemExit(main())
