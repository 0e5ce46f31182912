"""Train a student with its teachers, or any plain model.

Checks everything that can be checked first: config, plan, teacher files, data and the
checkpoint to resume from. Writes nothing before these checks have passed.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from .common import (
    add_config,
    add_launcher,
    add_verbose,
    command,
    command_parser,
    set_work_dir,
    shown_output,
)

if TYPE_CHECKING:
    from mmengine.config import Config

POSITION = 10


def make_parser() -> argparse.ArgumentParser:
    """Return mmdet's own arguments, and `--debug`."""
    parser = command_parser(
        'train',
        __doc__,
        'mkd-det train mkd_det::bccd/gfl_mkd_r18-w64_r18-w16_bccd.py',
    )
    add_config(parser)
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
        help='resume from this checkpoint; without a path, from the latest one in the'
        ' work dir',
    )
    add_verbose(parser)
    add_launcher(parser)
    return parser


def apply_args(cfg: Config, args: argparse.Namespace) -> None:
    """Put the arguments into the config.

    Raises:
        ConfigError: An argument needs something that the config or machine lacks.
    """
    from ..errors import ConfigError
    from ..preflight.checks import check_amp, check_optim_wrapper

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
                fix='auto_scale_lr = dict(enable=True, base_batch_size=16)',
            )
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        apply_resume(cfg, args.resume)
    check_amp(cfg)


def apply_resume(cfg: Config, resume: str) -> None:
    """Set `resume` and `load_from` of the config.

    Args:
        cfg: The config, with its work dir.
        resume: A checkpoint, or 'auto' for the latest one in the work dir.

    Raises:
        ConfigError: `resume` is blank.
    """
    from ..errors import ConfigError
    from ..training.resume import has_begun

    if not resume.strip():
        raise ConfigError(
            '--resume is empty',
            expected='a checkpoint; or --resume alone, for the latest one',
            actual=repr(resume),
        )
    if resume != 'auto':
        cfg.resume, cfg.load_from = True, resume
    elif has_begun(cfg.work_dir) or not cfg.get('load_from'):
        cfg.resume, cfg.load_from = True, None
    else:
        # Without a checkpoint to resume from, the start weights stay in force.
        print(f'Nothing to resume in {cfg.work_dir}: starts from {cfg.load_from}')


def run(args: argparse.Namespace) -> None:
    """Check, then train."""
    from ..config_files.reading import load_config
    from ..run import train

    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args.config, args.cfg_options)
    apply_args(cfg, args)
    with shown_output(cfg, args):
        train(cfg)


main = command(make_parser, run)
