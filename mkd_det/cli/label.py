"""Label images with a detector: COCO annotations with scores, to train on.

With --soft: what its dense head says of each image before NMS, for a teacher that need
not run (`teachers.t.stored`). An interrupted run continues where it stopped. Images
that cannot be read are listed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import (
    add_class_map,
    add_config,
    as_dict,
    command,
    command_parser,
    console,
    quiet_libraries,
)

if TYPE_CHECKING:
    from mmengine.config import Config

POSITION = 58


def make_parser() -> argparse.ArgumentParser:
    """Return the parser: a detector, images, and which boxes to keep."""
    parser = command_parser(
        'label',
        __doc__,
        'mkd-det label big.py big.pth data/unlabelled --out labels.json',
        'mkd-det label big.py big.pth data/unlabelled --out labels.json'
        ' --precision 0.9',
        'mkd-det label big.py big.pth data/unlabelled --soft --out labels.soft',
    )
    add_config(parser)
    add = parser.add_argument
    add('checkpoint', help='weights of the detector')
    add('images', help='a folder, a COCO json, or a list of paths (json or text)')
    add(
        '--root',
        default='',
        help='folder that paths in a json or list begin from; default: the current'
        ' one, or that of the list if its images lie there',
    )
    add('--out', type=Path, required=True, help='the file to write')
    add(
        '--score-thr',
        type=float,
        help='least score of a box; default: 0.3 (boxes under 0.02 are never kept)',
    )
    add(
        '--precision',
        type=float,
        help='take, for each class, the least score at which this share of its boxes'
        ' on the validation data is right, instead of --score-thr',
    )
    add('--classes', nargs='+', help='classes to keep, by name; default: all')
    add_class_map(
        parser,
        'a class to keep, and what the detector calls it, or several with commas',
    )
    add(
        '--soft', action='store_true', help='keep scores of all classes, and more boxes'
    )
    add('--top-k', type=int, help='with --soft: rows of an image to keep; default: 500')
    add('--batch-size', type=int, default=8)
    add(
        '--devices',
        nargs='+',
        help='a process for each, such as cuda:0 cuda:1; default: one process, on a'
        ' GPU if there is one',
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Label, and say what was labelled."""
    from mmengine.device import get_device

    from ..config_files.reading import load_config
    from ..io.paths import check_output_file

    quiet_libraries()
    check_arguments(args)
    cfg = load_config(args.config, args.cfg_options)
    check_output_file(args.out, '--out', args.checkpoint)
    devices = tuple(args.devices or (get_device(),))
    (write_soft if args.soft else write_hard)(args, cfg, devices)


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse arguments that would have no effect.

    Raises:
        ConfigError: They do not go together.
    """
    from ..errors import ConfigError

    hard = ('score_thr', 'precision', 'classes', 'class_map')
    for name in hard if args.soft else ('top_k',):
        if getattr(args, name) not in (None, []):
            option = f'--{name.replace("_", "-")}'
            raise ConfigError(
                f'{option} is about {"hard" if args.soft else "soft"} labels',
                fix=f'without --soft, or without {option}'
                if args.soft
                else f'--soft {option} {getattr(args, name)}',
            )
    if args.precision is not None and args.score_thr is not None:
        raise ConfigError(
            '--precision finds the least scores, in place of --score-thr',
            actual='both',
            fix=f'--precision {args.precision}, without --score-thr',
        )


def write_soft(args: argparse.Namespace, cfg: Config, devices: tuple[str, ...]) -> None:
    """Write soft labels."""
    from ..experiments.labelling.soft import SoftSettings, label_soft

    top_k = SoftSettings.top_k if args.top_k is None else args.top_k
    settings = SoftSettings(top_k, args.batch_size, devices)
    found = label_soft(cfg, args.checkpoint, args.images, args.out, settings, args.root)
    size = args.out.stat().st_size / 2**20
    shown: Any = console()
    shown.print(
        f'Written: {args.out}, {found.images} images ({found.added} new), {size:.1f}'
        ' MiB in all',
        markup=False,
        soft_wrap=True,
    )
    tell_failed(args, found.failed)


def write_hard(args: argparse.Namespace, cfg: Config, devices: tuple[str, ...]) -> None:
    """Write COCO annotations, and print a table."""
    from rich.table import Table

    from ..experiments.labelling.run import LabelSettings, label

    settings = LabelSettings(
        LabelSettings.score_thr if args.score_thr is None else args.score_thr,
        args.precision,
        tuple(args.classes or ()),
        as_dict(args.class_map, '--class-map'),
        args.batch_size,
        devices,
    )
    found = label(cfg, args.checkpoint, args.images, args.out, settings, args.root)
    table = Table(title=f'{found.images} images', title_justify='left')
    for name in ('class', 'least score', 'boxes'):
        table.add_column(name, justify='left' if name == 'class' else 'right')
    for name, count in found.boxes.items():
        least = found.thresholds[name]
        table.add_row(name, 'none' if least is None else f'{least:.3f}', str(count))
    shown: Any = console()
    shown.print(table)
    if found.unknown:
        names = ', '.join(found.unknown)
        shown.print(
            f'The detector does not know {names}: no boxes (--class-map OURS=THEIRS'
            ' if it has another name for it)',
            style='yellow',
            markup=False,
        )
    shown.print(f'Written: {args.out}', markup=False, soft_wrap=True)
    tell_failed(args, found.failed)


def tell_failed(args: argparse.Namespace, failed: Mapping[str, str]) -> None:
    """Say how many images could not be read."""
    if failed:
        shown: Any = console()
        shown.print(
            f'{len(failed)} images could not be read: {args.out}.failed.json',
            style='yellow',
            markup=False,
            soft_wrap=True,
        )


main = command(make_parser, run)
