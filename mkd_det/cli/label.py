"""Label images with a detector: COCO annotations with scores, to train on.

An interrupted run continues where it stopped. Images that cannot be read are listed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .common import add_config, command, command_parser, console, quiet_libraries

POSITION = 58


def make_parser() -> argparse.ArgumentParser:
    """Return the parser: a detector, images, and which boxes to keep."""
    parser = command_parser(
        'label',
        __doc__,
        'mkd-det label big.py big.pth data/unlabelled --out labels.json',
        'mkd-det label big.py big.pth data/unlabelled --out labels.json'
        ' --precision 0.9',
    )
    add_config(parser)
    add = parser.add_argument
    add('checkpoint', help='weights of the detector')
    add('images', help='a folder, a COCO json, or a list of paths (json or text)')
    add('--out', type=Path, required=True, help='the json to write')
    add('--score-thr', type=float, default=0.3, help='least score of a box')
    add(
        '--precision',
        type=float,
        help='take, for each class, the least score at which this share of its boxes'
        ' on the validation data is right, instead of --score-thr',
    )
    add('--classes', nargs='+', default=(), help='classes to keep, by name')
    add('--batch-size', type=int, default=8)
    add(
        '--devices',
        nargs='+',
        help='a process for each, such as cuda:0 cuda:1; default: one process, on a'
        ' GPU if there is one',
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Label, and print a table."""
    from mmengine.device import get_device
    from rich.table import Table

    from ..config_files.reading import load_config
    from ..experiments.labelling.run import LabelSettings, label
    from ..io.paths import check_output_file

    quiet_libraries()
    cfg = load_config(args.config, args.cfg_options)
    check_output_file(args.out, '--out', args.checkpoint)
    settings = LabelSettings(
        args.score_thr,
        args.precision,
        tuple(args.classes),
        args.batch_size,
        tuple(args.devices or (get_device(),)),
    )
    found = label(cfg, args.checkpoint, args.images, args.out, settings)
    table = Table(title=f'{found.images} images', title_justify='left')
    for name in ('class', 'least score', 'boxes'):
        table.add_column(name, justify='left' if name == 'class' else 'right')
    for name, count in found.boxes.items():
        least = found.thresholds[name]
        table.add_row(name, 'none' if least is None else f'{least:.3f}', str(count))
    shown: Any = console()
    shown.print(table)
    shown.print(f'Written: {args.out}', markup=False, soft_wrap=True)
    if found.failed:
        shown.print(
            f'{len(found.failed)} images could not be read: {args.out}.failed.json',
            style='yellow',
            markup=False,
            soft_wrap=True,
        )


main = command(make_parser, run)
