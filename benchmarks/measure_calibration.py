#!/usr/bin/env python
"""Measure whether shares carry over: one recipe, three data sets, no weight retuned.

    python benchmarks/measure_calibration.py --weights FOLDER

FOLDER holds the teachers gfl_r18-w64_bccd.pth, gfl_r18-w64_cards.pth and
gfl_r18-w64_pcb.pth, the last checkpoints of `mkd-det train` with their configs. On each
data set the same student is trained alone; by M-KD with all weights 1; with the weights
that were found on BCCD; with weights that `mkd-det calibrate` finds for the shares of
the recipe; and with shares held all the time. The rows of a data set are a comparison
of `mkd-det compare`; how hard each term pulls is logged in every training. Writes
docs/results/calibration*. Finished calibrations and trainings are skipped, interrupted
ones resumed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mkd_det.cli import calibrate, compare
from mkd_det.cli.common import add_devices, guard
from mkd_det.experiments.comparison.report.page import JSON
from mkd_det.io.json_files import read_json, write_json

DATA = ('bccd', 'cards', 'pcb')
RECIPE = 'mkd_det::_base_/recipes/mkd_dense.py'
BALANCED = 'mkd_det::_base_/recipes/mkd_balanced_dense.py'
ALONE = 'student alone'
ONES = 'all weights 1'
CARRIED = "BCCD's weights"
CALIBRATED = 'calibrated'
HELD = 'shares held'
# Iterations between measurements of the shares in each training.
INTERVAL = 20
PAIR = """\
_base_ = ['mkd_det::{data}/gfl_r18-w16_{data}.py', '{recipe}']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{{{_base_.model}}}},
    teachers=dict(t=dict(
        cfg='mkd_det::{data}/gfl_r18-w64_{data}.py',
        checkpoint={checkpoint!r})),
    **_base_.pop('recipe'))
"""
HOOK = f"custom_hooks = [dict(type='GradientShareHook', interval={INTERVAL})]\n"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments: which data, seeds, and where the teachers are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--weights', type=Path, required=True)
    add('--data', nargs='+', default=list(DATA), choices=DATA)
    add('--seeds', type=int, nargs='+', default=[0, 1, 2])
    add('--epochs', type=int, help="budget of each training; default: the configs'")
    add('--iters', type=int, default=200, help='iterations of each calibration')
    add('--work-dir', type=Path, default=Path('work_dirs/calibration'))
    add('--out', type=Path, default=Path('docs/results'))
    add('--debug', action='store_true', help='show tracebacks')
    add_devices(parser, 'trainings')
    return parser.parse_args(argv)


def write_rows(args: argparse.Namespace, data: str) -> dict[str, Path]:
    """Write the config of each row of a data set, and return the files by row.

    Calibrates first, unless that has been done.
    """
    folder = args.work_dir.absolute() / data
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = str((args.weights / f'gfl_r18-w64_{data}.pth').absolute())
    pairs = {}
    for name, recipe in (('pair', RECIPE), ('held', BALANCED)):
        pairs[name] = folder / f'{name}.py'
        given = dict(data=data, recipe=recipe, checkpoint=checkpoint)
        pairs[name].write_text(PAIR.format(**given))
    calibrated = folder / 'calibrated.py'
    if not calibration_file(args, data).is_file():
        code = calibrate.main(
            [
                *(str(pairs['pair']), '--out', str(calibrated)),
                *('--json', str(calibration_file(args, data))),
                *('--iters', str(args.iters)),
            ]
        )
        if code:
            raise SystemExit(code)  # it has printed the error
    terms = read_json(calibration_file(args, data))['terms']
    ones = ', '.join(f'{name}=dict(weight=1.0)' for name in terms)
    rows = {
        ONES: f"_base_ = ['pair.py']\nmodel = dict(terms=dict({ones}))\n{HOOK}",
        CARRIED: f"_base_ = ['pair.py']\n{HOOK}",
        CALIBRATED: f"_base_ = ['calibrated.py']\n{HOOK}",
        HELD: f"_base_ = ['held.py']\n{HOOK}",
    }
    files = {name: folder / f'row_{index}.py' for index, name in enumerate(rows)}
    for name, text in rows.items():
        files[name].write_text(text)
    return files


def calibration_file(args: argparse.Namespace, data: str) -> Path:
    """Return the file with what a calibration has measured."""
    return args.work_dir / data / 'calibrated.json'


def arguments(
    args: argparse.Namespace, data: str, rows: Mapping[str, Path]
) -> list[str]:
    """Return the arguments of `mkd-det compare` for a data set."""
    return [
        *(f'{name}={path}' for name, path in rows.items()),
        *('--base', f'{ALONE}=mkd_det::{data}/gfl_r18-w16_{data}.py'),
        *('--seeds', *map(str, args.seeds)),
        *('--work-dir', str(args.work_dir / data / 'runs')),
        *('--out', str(args.out / f'calibration_{data}')),
        *(('--epochs', str(args.epochs)) if args.epochs else ()),
        *('--devices', *args.devices),
    ]


def shares_had(folder: Path) -> dict[str, dict[str, float]]:
    """Return the mean share of each term in the first 200 iterations, and after them.

    Args:
        folder: Work dir of a training.

    Returns:
        By term, the geometric means 'first' and 'later', where there are any. The
        first quarter of the first 200 iterations does not count, as in a calibration.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for entry in log_entries(folder):
        step = entry.get('step', 0)
        for key, share in entry.items():
            if key.startswith('stat_share_') and share > 0 and step > 50:
                part = 'first' if step <= 200 else 'later'
                own = found.setdefault(key.removeprefix('stat_share_'), {})
                own.setdefault(part, []).append(math.log(share))
    return {
        name: {p: math.exp(math.fsum(v) / len(v)) for p, v in parts.items()}
        for name, parts in found.items()
    }


def log_entries(folder: Path) -> list[dict[str, Any]]:
    """Return what a training has logged; the last line may be cut off by a kill."""
    entries = []
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in path.read_text(errors='replace').splitlines():
            if line.startswith('{') and line.endswith('}'):
                entries.append(json.loads(line))
    return entries


def collect(args: argparse.Namespace, data: str) -> dict[str, Any]:
    """Return what was measured on a data set: calibration, comparison, shares had."""
    report = read_json(args.out / f'calibration_{data}' / JSON)
    runs = args.work_dir / data / 'runs'
    return dict(
        calibration=read_json(calibration_file(args, data)),
        comparison=report,
        shares={
            folder.name: had
            for folder in sorted(p for p in runs.iterdir() if p.is_dir())
            if (had := shares_had(folder))
        },
    )


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page of the results."""
    lines = [
        '# Shares carry over',
        '',
        '    python benchmarks/measure_calibration.py --weights checkpoints',
        '',
        'Raw numbers: [calibration.json](calibration.json); comparisons: '
        + ', '.join(f'[{d}](calibration_{d}/report.md)' for d in found)
        + '.',
        '',
        '| data | ' + ' | '.join((ALONE, ONES, CARRIED, CALIBRATED, HELD)) + ' |',
        '|---' * 6 + '|',
    ]
    for data, result in found.items():
        rows = {row['name']: row for row in result['comparison']['rows']}
        cells = [
            _mean(rows.get(name)) for name in (ALONE, ONES, CARRIED, CALIBRATED, HELD)
        ]
        lines.append('| ' + ' | '.join([data, *cells]) + ' |')
    lines += [
        '',
        'Shares that were asked, and weights that give them:',
        '',
        '| data | term | share asked | weight | share of a weight of 1 |',
        '|---|---|---|---|---|',
    ]
    for data, result in found.items():
        for name, term in result['calibration']['terms'].items():
            lines.append(
                f'| {data} | {name} | {term["share"]:g} | {term["weight"]:g} |'
                f' {term["measured"]:.3g} |'
            )
    lines += [
        '',
        'Shares that were had, in iterations 51 to 200 and later:',
        '',
        '| data | training | term | 51 to 200 | later |',
        '|---|---|---|---|---|',
    ]
    for data, result in found.items():
        for training, terms in result['shares'].items():
            for name, parts in terms.items():
                values = (
                    f'{parts[p]:.3g}' if p in parts else '' for p in ('first', 'later')
                )
                lines.append(
                    f'| {data} | {training} | {name} | ' + ' | '.join(values) + ' |'
                )
    return '\n'.join([*lines, ''])


def _mean(row: Mapping[str, Any] | None) -> str:
    """Return mean and spread of a row's metric."""
    figure = (row or {}).get('metric')
    if not figure:
        return ''
    spread = f' ± {figure["deviation"]:.3f}' if figure['count'] > 1 else ''
    return f'{figure["mean"]:.3f}{spread}'


@guard
def main(argv: Sequence[str] | None = None) -> None:
    """Calibrate and compare on each data set; write all figures after each."""
    args = parse_args(argv)
    found: dict[str, Any] = {}
    for data in args.data:
        if code := compare.main(arguments(args, data, write_rows(args, data))):
            raise SystemExit(code)  # it has printed the error
        found[data] = collect(args, data)
        write_json(args.out / 'calibration.json', found)
        (args.out / 'calibration.md').write_text(page(found))


if __name__ == '__main__':
    raise SystemExit(main())
