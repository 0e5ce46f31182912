"""Find the weights at which the terms of a distill config have their shares.

A share is how hard a term pulls on the student, as a fraction of the gradient of the
student's own task. It carries over from one data set to the next, a weight does not.
Recipes give shares; this command trains for 200 iterations with all terms at their
shares, measures the weights that this takes, and writes a config that inherits from
yours and has these weights. Train that one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .common import (
    add_config,
    as_dict,
    command,
    command_parser,
    console,
    quiet_libraries,
)

POSITION = 35


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = command_parser(
        'calibrate',
        __doc__,
        'mkd-det calibrate my_pair.py',
        'mkd-det calibrate mkd_det::bccd/gfl_mkd_r18-w64_r18-w16_bccd.py --shares'
        ' loss_soft=5 loss_feature=2 --out calibrated.py',
    )
    add_config(parser)
    add = parser.add_argument
    add('--out', type=Path, help='config to write; default: <config>_calibrated.py')
    add(
        '--shares',
        nargs='+',
        default=(),
        metavar='TERM=SHARE',
        type=_share,
        help="shares that come over the config's; 1 pulls as hard as the task",
    )
    add('--iters', type=int, default=200, help='iterations to train')
    add('--interval', type=int, default=4, help='iterations between measurements')
    add('--on', default='backbone', help='module of the student that counts')
    add('--seed', type=int, help="default: the config's, or 0")
    add('--json', type=Path, help='write what was measured there too')
    return parser


def _share(text: str) -> tuple[str, float]:
    name, _, value = text.partition('=')
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'takes TERM=SHARE, such as loss_soft=0.5, not {text!r}'
        ) from None


def run(args: argparse.Namespace) -> None:
    """Measure, print, write."""
    from ..config_files.reading import load_config
    from ..experiments.calibration import Settings, calibrate
    from ..experiments.calibration.config_file import (
        calibration_table,
        check_out,
        write_calibrated,
    )
    from ..io.json_files import write_json
    from ..io.paths import check_output_file

    quiet_libraries()
    settings = Settings(args.iters, args.interval, args.on, args.seed)
    cfg = load_config(args.config, args.cfg_options)
    stem = Path(args.config.rpartition('::')[2]).stem
    out = args.out or Path(f'{stem}_calibrated.py')
    check_out(out, args.config)
    if args.json:
        check_output_file(args.json, '--json', args.config)
    found = calibrate(cfg, as_dict(args.shares, '--shares'), settings)
    write_calibrated(out, args.config, cfg, found, args.cfg_options)
    shown: Any = console()
    shown.print(calibration_table(found))
    shown.print(f'Written: {out}', markup=False, highlight=False, soft_wrap=True)
    shown.print(
        f'Train it: mkd-det train {out}', markup=False, highlight=False, soft_wrap=True
    )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, found.to_dict())


main = command(make_parser, run)
