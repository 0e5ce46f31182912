#!/usr/bin/env python
"""Evaluates a student (or any plain model) on its test set.

    python tools/test.py CONFIG CHECKPOINT

Of a distill config the student alone is built; no teacher file is needed. The
checkpoint must fit it completely.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import _environment  # noqa: F401
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mkd_det.io.checkpoint import load_state_dict_strict, read_checkpoint, extract_state_dict
from mkd_det.cli.common import (
    add_launcher,
    config_parser,
    join_processes,
    main_guard,
    set_work_dir,
)
from mkd_det.configs import load_config
from mkd_det.data import check_data, check_loaders
from mkd_det.errors import ConfigError
from mkd_det.io.paths import check_writable_folder, check_output_file
from mkd_det.io.quiet import ignore_library_warnings
from mkd_det.training.runtime import student_config


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """mmdet's own arguments, and `--debug`."""
    parser = config_parser(__doc__)
    parser.add_argument('checkpoint', help='checkpoint file or address')
    parser.add_argument('--work-dir', help='folder for the metrics')
    parser.add_argument('--out', help='write the predictions to this .pkl file')
    parser.add_argument('--show', action='store_true', help='show the predictions')
    parser.add_argument(
        '--show-dir', help='write painted images to work_dir/timestamp/SHOW_DIR'
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that --show waits'
    )
    parser.add_argument('--tta', action='store_true', help='test time augmentation')
    add_launcher(parser)
    args = parser.parse_args(argv)
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error('--out must end in .pkl or .pickle')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def apply_args(cfg: Config, args: argparse.Namespace) -> None:
    """Put the arguments into the config."""
    from mmdet.engine.hooks.utils import trigger_visualization_hook

    cfg.launcher = args.launcher
    cfg.resume, cfg.load_from = False, None
    if args.show or args.show_dir:
        check_show(args)
        if 'visualization' not in (cfg.get('default_hooks') or {}):
            raise ConfigError(
                '--show and --show-dir need the visualization hook',
                fix="default_hooks=dict(visualization=dict(type='DetVisualizationHook'))",
            )
        trigger_visualization_hook(cfg, args)
    if args.tta:
        use_tta(cfg)


def check_show(args: argparse.Namespace) -> None:
    """Raise ConfigError where predictions cannot be shown: windows need a screen."""
    screens = ('DISPLAY', 'WAYLAND_DISPLAY')
    if args.show and sys.platform == 'linux' and not any(map(os.environ.get, screens)):
        raise ConfigError(
            '--show opens windows, and there is no screen here',
            expected='DISPLAY in the environment',
            fix='--show-dir painted: images in a folder',
        )


def check_before_start(cfg: Config, args: argparse.Namespace) -> None:
    """Raise for what would stop the test, or lose its results, later.

    Raises:
        ConfigError: There is nothing to test, or a place cannot be written to.
    """
    for key in ('test_dataloader', 'test_evaluator', 'test_cfg'):
        if cfg.get(key) is None:
            raise ConfigError(
                f'the config has no `{key}`',
                expected='test_dataloader, test_evaluator and test_cfg',
                fix=f'{key} = val_{key.removeprefix("test_")}',
            )
    check_writable_folder(cfg.work_dir, '--work-dir')
    if args.out is not None:
        check_output_file(args.out, '--out', args.config, args.checkpoint)
    if args.show_dir is not None:
        # Below the work dir, unless it is absolute.
        check_writable_folder(Path(cfg.work_dir, args.show_dir), '--show-dir')


def use_tta(cfg: Config) -> None:
    """Wrap the model for test time augmentation: by default, flipped and not."""
    nms = dict(type='nms', iou_threshold=0.5)
    default = dict(type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=100))
    cfg.model = ConfigDict(**cfg.get('tta_model', default), module=cfg.model)
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.get('tta_pipeline') or _flipping(dataset.pipeline)


def _flipping(pipeline: Sequence[dict]) -> list[dict[str, Any]]:
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
    # Metrics may need more than mmdet's default keys: keep the config's own.
    keys = tuple(pipeline[-1].get('meta_keys', keys))
    pack = dict(type='PackDetInputs', meta_keys=(*keys, 'flip', 'flip_direction'))
    last = dict(type='TestTimeAug', transforms=[flips, [pack]])
    return [*deepcopy(list(pipeline[:-1])), last]


def load_weights(runner: Runner, content: dict[str, Any], path: str) -> None:
    """Fill the runner's model from a checkpoint, completely or not at all."""
    # Hooks such as EMAHook choose here which weights count.
    runner.call_hook('after_load_checkpoint', checkpoint=content)
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    load_state_dict_strict(model, extract_state_dict(content, path), path, 'the model of the config')


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Build the student, load it strictly, test it."""
    # mkd_det keeps the first import of mmdet quiet, after a look at its version.
    from mmdet.evaluation import DumpDetResults
    from mmdet.utils import setup_cache_size_limit_of_dynamo

    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    ignore_library_warnings()
    setup_cache_size_limit_of_dynamo()
    set_work_dir(cfg, args.config, args.work_dir)
    work_dir = cfg.work_dir
    cfg = student_config(cfg)
    cfg.work_dir = work_dir
    apply_args(cfg, args)
    check_before_start(cfg, args)
    content = read_checkpoint(args.checkpoint)
    check_data(cfg, splits=('test',))
    check_loaders(cfg, splits=('test',))
    join_processes(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    load_weights(runner, content, args.checkpoint)
    if args.out:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    runner.test()


if __name__ == '__main__':
    raise SystemExit(main())
