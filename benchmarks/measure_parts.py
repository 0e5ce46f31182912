#!/usr/bin/env python
"""Measure what each part of M-KD gains alone, and what the whole does.

    python benchmarks/measure_parts.py --weights FOLDER

FOLDER holds the teachers gfl_r18-w64_bccd.pth and gfl_r18-w64_cards.pth, the last
checkpoints of `mkd-det train` with their configs. The rows of a data set are a
comparison of `mkd-det compare`, on validation images; with `--test` they are tested as
well, once all are trained. Teachers are read from a cache. Writes
docs/results/parts_<data>. Finished trainings are skipped, interrupted ones resumed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bccd_val import use_val, write_val
from measuring import dump
from mmengine.config import Config

from mkd_det.cli import compare
from mkd_det.cli.common import add_devices, guard
from mkd_det.config_files.reading import load_config

DATA = ('bccd', 'cards')
BASE = 'student alone'
# Terms of the recipe that each row keeps, and their weights where these are others.
# Without features there is no guidance layer, and no exploration branch.
ROWS: dict[str, dict[str, float | None]] = {
    'soft outputs': dict(loss_soft=0.8),
    'attention': dict(loss_attention=20.0),
    'relations': dict(loss_relation=None),
    'relations and soft outputs': dict(loss_relation=None, loss_soft=0.4),
    'M-KD without soft outputs': dict(
        loss_relation=None, loss_attention=None, loss_feature=None
    ),
    'M-KD': dict(
        loss_relation=None, loss_attention=None, loss_feature=None, loss_soft=None
    ),
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments: which data, seeds, and where the teachers are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--weights', type=Path, required=True)
    add('--data', nargs='+', default=list(DATA), choices=DATA)
    add('--rows', nargs='+', default=list(ROWS), choices=list(ROWS))
    add('--seeds', type=int, nargs='+', default=[0, 1, 2])
    add('--epochs', type=int, help="budget of each training; default: the configs'")
    add('--test', action='store_true', help='test the students, too')
    add('--work-dir', type=Path, default=Path('work_dirs/parts'))
    add('--out', type=Path, default=Path('docs/results'))
    add('--debug', action='store_true', help='show tracebacks')
    add_devices(parser, 'trainings')
    return parser.parse_args(argv)


def make_row(args: argparse.Namespace, data: str, row: str) -> Config:
    """Return the config of a row, or of the student alone, on validation images."""
    if row == BASE:
        cfg = load_config(f'mkd_det::{data}/gfl_r18-w16_{data}.py')
    else:
        cfg = load_config(f'mkd_det::{data}/gfl_mkd_r18-w64_r18-w16_{data}.py')
        _keep_terms(cfg.model, ROWS[row])
        teacher = cfg.model.teachers.t
        checkpoint = args.weights / f'gfl_r18-w64_{data}.pth'
        teacher.checkpoint = str(checkpoint.absolute())
        teacher.cache = str((args.work_dir / 'cache').absolute())
    if data == 'bccd':
        use_val(cfg, args.work_dir)
    return cfg


def _keep_terms(model: Any, kept: dict[str, float | None]) -> None:
    """Leave out the other terms of a distiller's config, and what only they read."""
    for name in list(model.terms):
        if name not in kept:
            del model.terms[name]
    for name, weight in kept.items():
        if weight is not None:
            model.terms[name].weight = weight
    if 'loss_feature' not in kept:
        model.adapters, model.branches = {}, {}


def arguments(args: argparse.Namespace, data: str) -> list[str]:
    """Write the configs of a data set; return the arguments of `mkd-det compare`."""
    folder = args.work_dir / data
    files = {}
    for row in (BASE, *args.rows):
        files[row] = folder / 'configs' / f'{row.replace(" ", "_")}.py'
        dump(make_row(args, data, row), files[row])
    base = files.pop(BASE)
    return [
        *(f'{row}={file}' for row, file in files.items()),
        *('--base', f'{BASE}={base}'),
        *('--seeds', *map(str, args.seeds)),
        *('--work-dir', str(folder / 'runs')),
        *('--out', str(args.out / f'parts_{data}')),
        *(('--epochs', str(args.epochs)) if args.epochs else ()),
        *(('--test',) if args.test else ()),
        *('--devices', *args.devices),
    ]


@guard
def main(argv: Sequence[str] | None = None) -> None:
    """Compare the rows of each data set."""
    args = parse_args(argv)
    for data in args.data:
        if data == 'bccd':
            write_val(args.work_dir)
        if code := compare.main(arguments(args, data)):
            raise SystemExit(code)  # it has printed the error


if __name__ == '__main__':
    raise SystemExit(main())
