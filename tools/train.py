#!/usr/bin/env python
"""Trains a student with its teachers, or any plain model.

    python tools/train.py configs/bccd/gfl_mkd_r18-w64_r18-w16_bccd.py

All that can be known to be wrong (config, plan, teacher files, data, the
checkpoint to resume from) is looked at first. Nothing is written before.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import _environment  # noqa: F401
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mkd_det.checks import check_amp, check_before_start, check_optim_wrapper
from mkd_det.cli import (
    add_launcher,
    config_parser,
    join_processes,
    main_guard,
    set_work_dir,
)
from mkd_det.configs import load_config
from mkd_det.errors import ConfigError
from mkd_det.hooks import LastValidationHook
from mkd_det.hooks.safe_checkpoint_hook import save_safely
from mkd_det.quiet import quiet_warnings
from mkd_det.resuming import has_begun
from mkd_det.runtime import prepare


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


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Check, then train."""
    # mkd_det keeps the first import of mmdet quiet, after a look at its version.
    from mmdet.utils import setup_cache_size_limit_of_dynamo

    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    apply_args(cfg, args)
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
