"""Evaluate a student (or any plain model) on its test set.

Builds the student alone, also from a distill config: no teacher file is needed. The
checkpoint must fit it completely.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
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

POSITION = 20


def make_parser() -> argparse.ArgumentParser:
    """Return mmdet's own arguments, and `--debug`."""
    parser = command_parser('test', __doc__, 'mkd-det test CONFIG CHECKPOINT')
    add_config(parser)
    parser.add_argument('checkpoint', help='checkpoint file or address')
    parser.add_argument('--work-dir', help='folder for the metrics')
    parser.add_argument(
        '--out', type=_pickle, help='write the predictions to this .pkl file'
    )
    parser.add_argument('--show', action='store_true', help='show the predictions')
    parser.add_argument(
        '--show-dir', help='write painted images to work_dir/timestamp/SHOW_DIR'
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that --show waits'
    )
    parser.add_argument('--tta', action='store_true', help='test time augmentation')
    add_verbose(parser)
    add_launcher(parser)
    return parser


def _pickle(path: str) -> str:
    if not path.endswith(('.pkl', '.pickle')):
        raise argparse.ArgumentTypeError('must end in .pkl or .pickle')
    return path


def run(args: argparse.Namespace) -> None:
    """Build the student, load it strictly, test it."""
    from ..config_files.reading import load_config
    from ..run import evaluate
    from ..training.student_config import student_config

    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args.config, args.cfg_options)
    set_work_dir(cfg, args.config, args.work_dir)
    work_dir = cfg.work_dir
    cfg = student_config(cfg)
    cfg.work_dir = work_dir
    apply_args(cfg, args)
    with shown_output(cfg, args):
        evaluate(cfg, args.checkpoint, args.out)


def apply_args(cfg: Config, args: argparse.Namespace) -> None:
    """Put the arguments into the config.

    Raises:
        ConfigError: An argument needs something that the config or machine lacks.
    """
    from mmdet.engine.hooks.utils import trigger_visualization_hook

    from ..errors import ConfigError
    from ..io.paths import check_writable_folder
    from ..run import check_test, use_tta

    cfg.launcher = args.launcher
    cfg.resume, cfg.load_from = False, None
    check_test(cfg, args.checkpoint, args.out)
    if args.show or args.show_dir:
        check_show(args)
        if 'visualization' not in (cfg.get('default_hooks') or {}):
            raise ConfigError(
                '--show and --show-dir need the visualization hook',
                fix="default_hooks=dict(visualization=dict(type='DetVisualizationHook'))",
            )
        trigger_visualization_hook(cfg, args)
    if args.show_dir is not None:
        # Below the work dir, unless it is absolute.
        check_writable_folder(Path(cfg.work_dir, args.show_dir), '--show-dir')
    if args.tta:
        use_tta(cfg)


def check_show(args: argparse.Namespace) -> None:
    """Raise ConfigError where predictions cannot be shown: windows need a screen."""
    from ..errors import ConfigError

    screens = ('DISPLAY', 'WAYLAND_DISPLAY')
    if args.show and sys.platform == 'linux' and not any(map(os.environ.get, screens)):
        raise ConfigError(
            '--show opens windows, and there is no screen here',
            expected='DISPLAY in the environment',
            fix='--show-dir painted: images in a folder',
        )


main = command(make_parser, run)
