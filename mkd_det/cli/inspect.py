"""List the modules of a model with shapes and strides, to choose taps from.

Reads no data and trains nothing: one forward of random numbers. A distill config stands
for its student.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .common import add_config, command, command_parser, console, quiet_libraries

if TYPE_CHECKING:
    from torch import nn

POSITION = 40


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = command_parser(
        'inspect',
        __doc__,
        "mkd-det inspect mkd_det::bccd/gfl_r18-w16_bccd.py --filter 'neck*'",
        'mkd-det inspect mmdet::gfl/gfl_r50_fpn_1x_coco.py'
        ' --teacher mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
    )
    add_config(parser)
    parser.add_argument('--checkpoint', help='load it (strictly) first')
    parser.add_argument(
        '--input-size', type=int, nargs='+', default=[256], help='H W, in pixels'
    )
    parser.add_argument('--depth', type=int, default=3, help='deepest path to list')
    parser.add_argument('--filter', help="shell pattern ('neck*') or part of a path")
    parser.add_argument(
        '--teacher', help='config of a second model, or a teacher named in CONFIG'
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Survey the model, or two of them, and print the table."""
    from ..checkpoints.checkpoint import load_checkpoint_strict
    from ..config import ProbeConfig
    from ..config_files.reading import load_config
    from ..inspection import pair_modules, select, survey
    from ..inspection.tables import outputs_table, pairs_table
    from ..training.runtime import build_model, is_distill
    from ..training.student_config import student_config

    quiet_libraries()
    size = (args.input_size[0], args.input_size[-1])
    cfg = load_config(args.config, args.cfg_options)
    model = build_model(student_config(cfg))
    if args.checkpoint:
        load_checkpoint_strict(model, args.checkpoint, f'the model of {args.config}')
    probe = ProbeConfig.parse(cfg.model.get('probe') if is_distill(cfg) else None)
    outputs = select(survey(model, size, probe), args.depth, args.filter)
    shown = f'for an image of {size[0]}x{size[1]}'
    name = type(model).__name__
    if args.teacher is None:
        console().print(outputs_table(outputs, f'{name} {shown}'))
        return
    teacher = build_teacher(cfg, args.teacher)
    pairs = pair_modules(outputs, survey(teacher, size, probe))
    title = f'{name} beside {type(teacher).__name__} {shown}'
    console().print(pairs_table(pairs, title))


def build_teacher(cfg: Any, name: str) -> nn.Module:
    """Build a teacher that the distill config names, or the model of another config."""
    from ..config_files.reading import load_config
    from ..teachers.bank import TeacherBank
    from ..training.runtime import build_model
    from ..training.student_config import student_config

    named = cfg.model.get('teachers') or {}
    if name in named:
        return TeacherBank(named)[name].model.requires_grad_()
    return build_model(student_config(load_config(name)))


main = command(make_parser, run)
