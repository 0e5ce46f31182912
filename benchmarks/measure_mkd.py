#!/usr/bin/env python
"""Measure M-KD on three data sets: each part, the whole, and ways to set its weights.

    python benchmarks/measure_mkd.py --weights FOLDER

FOLDER holds the teachers gfl_r18-w64_bccd.pth, gfl_r18-w64_cards.pth and
gfl_r18-w64_pcb.pth, the last checkpoints of `mkd-det train` with their configs. The
rows of a data set are a comparison of `mkd-det compare`, on validation images; with
`--test` the students are tested as well, once all are trained. Teachers are read from a
cache. How hard each term pulls is logged in the rows of the whole. Writes
docs/results/mkd_<data>, and docs/results/calibration.md. Finished calibrations and
trainings are skipped, interrupted ones resumed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bccd_val import use_val, write_val
from measuring import dump
from mmengine.config import Config

from mkd_det.cli import calibrate, compare
from mkd_det.cli.common import add_devices, guard
from mkd_det.config_files.reading import load_config
from mkd_det.experiments.comparison.report.page import JSON
from mkd_det.experiments.comparison.rows import file_stem
from mkd_det.io.json_files import read_json, write_json
from mkd_det.plan.recipes import apply_recipe, read_recipe

DATA = ('bccd', 'cards', 'pcb')
BASE = 'student alone'
WHOLE = 'M-KD'
NECK = dict.fromkeys(('loss_relation', 'loss_attention', 'loss_feature'))
# Terms of the recipe that a row keeps, and their weights where these are others.
PARTS: dict[str, Mapping[str, float | None]] = {
    'soft outputs': dict(loss_soft=0.8),
    'attention': dict(loss_attention=20.0),
    'relations': dict(loss_relation=None),
    'features, guided': dict(loss_feature=None),
    'features, guided, with exploration': dict(loss_feature=None),
    'M-KD without soft outputs': NECK,
    'M-KD without exploration': dict(NECK, loss_soft=None),
    WHOLE: dict(NECK, loss_soft=None),
}
# Rows with features, but without the branch beside the convolutions of the FPN.
UNEXPLORED = ('features, guided', 'M-KD without exploration')
# Recipes of others.
PEERS = {
    'CWD': 'mkd_det::_base_/recipes/cwd_dense.py',
    'PKD': 'mkd_det::_base_/recipes/pkd_dense.py',
    'MGD': 'mkd_det::_base_/recipes/mgd_dense.py',
}
# Ways to set the weights of the whole, besides those of the recipe.
ONES = 'M-KD, all weights 1'
CALIBRATED = 'M-KD, calibrated'
HELD = 'M-KD, shares held'
WEIGHINGS = (ONES, WHOLE, CALIBRATED, HELD)
ROWS = (*PARTS, *PEERS, ONES, CALIBRATED, HELD)
# Iterations between measurements of the shares, which take a backward pass a term.
INTERVAL = 40


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments: which data, rows, seeds, and where the teachers are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--weights', type=Path, required=True)
    add('--data', nargs='+', default=list(DATA), choices=DATA)
    add('--rows', nargs='+', default=list(ROWS), choices=list(ROWS))
    add('--seeds', type=int, nargs='+', default=[0, 1, 2])
    add('--epochs', type=int, help="budget of each training; default: the configs'")
    add('--iters', type=int, default=200, help='iterations of each calibration')
    add('--test', action='store_true', help='test the students, too')
    add('--work-dir', type=Path, default=Path('work_dirs/mkd'))
    add('--out', type=Path, default=Path('docs/results'))
    add('--debug', action='store_true', help='show tracebacks')
    add_devices(parser, 'trainings')
    return parser.parse_args(argv)


# -- rows --------------------------------------------------------------------------


def make_row(args: argparse.Namespace, data: str, row: str) -> Config:
    """Return the config of a row, or of the student alone, on validation images."""
    if row == BASE:
        cfg = load_config(f'mkd_det::{data}/gfl_r18-w16_{data}.py')
    elif row == CALIBRATED:
        cfg = load_config(str(calibrated_file(args, data)))
    else:
        cfg = load_config(f'mkd_det::{data}/gfl_mkd_r18-w64_r18-w16_{data}.py')
        _set_teacher(args, data, cfg.model.teachers.t)
    if data == 'bccd':
        use_val(cfg, args.work_dir)
    if row in PARTS:
        _keep_terms(cfg.model, PARTS[row], explored=row not in UNEXPLORED)
    elif row in PEERS:
        recipe = read_recipe(PEERS[row]).arguments
        teachers = cfg.model.teachers.to_dict()
        cfg.model = apply_recipe(cfg.model.student, teachers, recipe)
    elif row == ONES:
        for term in cfg.model.terms.values():
            term.weight = 1.0
    elif row == HELD:
        cfg.model.balance = dict(type='GradientShare')
    if row in WEIGHINGS:
        cfg.custom_hooks = [dict(type='GradientShareHook', interval=INTERVAL)]
    return cfg


def _set_teacher(args: argparse.Namespace, data: str, teacher: Any) -> None:
    """Give a teacher its checkpoint and its cache."""
    checkpoint = args.weights / f'gfl_r18-w64_{data}.pth'
    teacher.checkpoint = str(checkpoint.absolute())
    teacher.cache = str((args.work_dir / 'cache').absolute())


def _keep_terms(
    model: Any, kept: Mapping[str, float | None], explored: bool = True
) -> None:
    """Leave out the other terms of a distiller's config, and what only they read."""
    for name in list(model.terms):
        if name not in kept:
            del model.terms[name]
    for name, weight in kept.items():
        if weight is not None:
            model.terms[name].weight = weight
    if 'loss_feature' not in kept:
        model.adapters, model.branches = {}, {}
    elif not explored:
        model.adapters.guide_fpn.student, model.branches = 'fpn', {}


def calibrated_file(args: argparse.Namespace, data: str) -> Path:
    """Return the config with the weights of a calibration; its json is beside it."""
    return args.work_dir / data / 'configs' / 'calibrated.py'


def calibrate_once(args: argparse.Namespace, data: str) -> None:
    """Find the weights at which the whole has its shares, unless that has been done."""
    out = calibrated_file(args, data)
    if out.with_suffix('.json').is_file():
        return
    pair = out.with_name('pair.py')
    dump(make_row(args, data, ONES), pair)
    files = ['--out', str(out), '--json', str(out.with_suffix('.json'))]
    if code := calibrate.main([str(pair), *files, '--iters', str(args.iters)]):
        raise SystemExit(code)  # it has printed the error


def arguments(args: argparse.Namespace, data: str) -> list[str]:
    """Write the configs of a data set; return the arguments of `mkd-det compare`."""
    folder = args.work_dir / data
    files = {}
    for row in (BASE, *args.rows):
        files[row] = folder / 'configs' / f'{file_stem(row)}.py'
        dump(make_row(args, data, row), files[row])
    base = files.pop(BASE)
    return [
        *(f'{row}={file}' for row, file in files.items()),
        *('--base', f'{BASE}={base}'),
        *('--seeds', *map(str, args.seeds)),
        *('--work-dir', str(folder / 'runs')),
        *('--out', str(args.out / f'mkd_{data}')),
        *(('--epochs', str(args.epochs)) if args.epochs else ()),
        *(('--test',) if args.test else ()),
        *('--devices', *args.devices),
    ]


# -- shares ------------------------------------------------------------------------


def shares_had(folders: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Return the mean share of each term in the first 200 iterations, and after them.

    Args:
        folders: Work dirs of trainings.

    Returns:
        By term, the geometric means 'first' and 'later', where there are any. The
        first quarter of the first 200 iterations does not count, as in a calibration.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for entry in log_entries(folders):
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


def log_entries(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return what trainings have logged; the last line may be cut off by a kill."""
    entries = []
    for folder in folders:
        for path in sorted(folder.glob('*/vis_data/scalars.json')):
            for line in path.read_text(errors='replace').splitlines():
                if line.startswith('{') and line.endswith('}'):
                    entries.append(json.loads(line))
    return entries


def collect(args: argparse.Namespace, data: str) -> dict[str, Any]:
    """Return what a calibration and the ways to set weights gave on a data set."""
    report = read_json(args.out / f'mkd_{data}' / JSON)
    runs = args.work_dir / data / 'runs'
    metrics = {row['name']: row.get('metric') for row in report['rows']}
    calibrated = calibrated_file(args, data).with_suffix('.json')
    return dict(
        split=report['split'],
        calibration=read_json(calibrated)['terms'],
        metrics={row: metrics.get(row) for row in (BASE, *WEIGHINGS)},
        shares={
            row: shares_had(sorted(runs.glob(f'{file_stem(row)}-[0-9]*')))
            for row in WEIGHINGS
        },
    )


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page of the ways to set weights."""
    rows = (BASE, *WEIGHINGS)
    split = next(iter(found.values()))['split']
    lines = [
        '# Shares carry over',
        '',
        '    python benchmarks/measure_mkd.py --weights checkpoints --test',
        '',
        f'Box mAP on the {split} images. The weights of the recipe were found on BCCD'
        ' and playing cards; "calibrated" are those that `mkd-det calibrate` finds for'
        ' the shares of the recipe; "shares held" adjusts them all the time.',
        'Raw numbers: [calibration.json](calibration.json); comparisons: '
        + ', '.join(f'[{data}](mkd_{data}/report.md)' for data in found)
        + '.',
        '',
        '| data | ' + ' | '.join(rows) + ' |',
        '|---' * (len(rows) + 1) + '|',
    ]
    for data, result in found.items():
        cells = [_mean(result['metrics'].get(row)) for row in rows]
        lines.append('| ' + ' | '.join([data, *cells]) + ' |')
    lines += ['', 'The shares asked for, and the weights that gave them:', '']
    lines += _weights_table(found)
    lines += ['', 'The shares that trainings had in iterations 51 to 200, later:', '']
    return '\n'.join([*lines, *_shares_table(found), ''])


def _weights_table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of the table of calibrated weights."""
    lines = [
        '| data | term | share asked | weight | share of a weight of 1 |',
        '|---|---|---|---|---|',
    ]
    for data, result in found.items():
        for name, term in result['calibration'].items():
            lines.append(
                f'| {data} | {name} | {term["share"]:g} | {term["weight"]:.3g} |'
                f' {term["measured"]:.3g} |'
            )
    return lines


def _shares_table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of the table of shares that trainings had."""
    lines = [
        '| data | term | ' + ' | '.join(WEIGHINGS) + ' |',
        '|---' * (len(WEIGHINGS) + 2) + '|',
    ]
    for data, result in found.items():
        shares = result['shares']
        for term in shares[WHOLE]:
            cells = [
                ', '.join(f'{v:.2g}' for v in shares[row].get(term, {}).values())
                for row in WEIGHINGS
            ]
            lines.append('| ' + ' | '.join([data, term, *cells]) + ' |')
    return lines


def _mean(figure: Mapping[str, Any] | None) -> str:
    """Return mean and spread of a row's metric."""
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
        if data == 'bccd':
            write_val(args.work_dir)
        if CALIBRATED in args.rows:
            calibrate_once(args, data)
        if code := compare.main(arguments(args, data)):
            raise SystemExit(code)  # it has printed the error
        if CALIBRATED in args.rows:
            found[data] = collect(args, data)
            write_json(args.out / 'calibration.json', found)
            (args.out / 'calibration.md').write_text(page(found))


if __name__ == '__main__':
    raise SystemExit(main())
