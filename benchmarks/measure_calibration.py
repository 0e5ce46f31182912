#!/usr/bin/env python
"""Measure ways to set the weights of M-KD on three data sets.

    python benchmarks/measure_calibration.py --weights FOLDER

FOLDER holds the teachers gfl_r18-w64_bccd.pth, gfl_r18-w64_cards.pth and
gfl_r18-w64_pcb.pth, the last checkpoints of `mkd-det train` with their configs. The
rows of a data set are a comparison of `mkd-det compare`, on validation images; with
`--test` the students are tested as well, once all are trained. Teachers are read from a
cache, and how hard each term pulls is logged. Writes docs/results/calibration_<data>
and docs/results/calibration.md; what that page has of other data sets stays, as do the
words under its last heading, which are written by hand. Finished calibrations and
trainings are skipped, interrupted ones resumed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gfl_pairs
import protocol
from measuring import dump
from mmengine.config import Config

from mkd_det.cli import calibrate
from mkd_det.cli.common import guard
from mkd_det.experiments.comparison.report.page import JSON
from mkd_det.experiments.comparison.rows import file_stem
from mkd_det.io.json_files import read_json, write_json

BASE = 'student alone'
WHOLE = 'M-KD'
# Ways to set the weights, besides those of the recipe.
CARRIED = "M-KD, BCCD's calibrated weights"
CALIBRATED = 'M-KD, calibrated'
HELD = 'M-KD, shares held'
WEIGHINGS = (WHOLE, CARRIED, CALIBRATED, HELD)
# Iterations between measurements of the shares, which take a backward pass a term.
INTERVAL = 40
# Page of pooled.py, which the words name.
POOLED = 'calibration_pooled'
# Heading of what the page says in words.
WORDS = '## What they say'


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments: which data, rows, seeds, and where the teachers are."""
    parser = protocol.make_parser(__doc__, 'work_dirs/calibration')
    add = parser.add_argument
    add('--weights', type=Path, required=True)
    add('--data', nargs='+', default=list(gfl_pairs.DATA), choices=gfl_pairs.DATA)
    add('--rows', nargs='+', default=list(WEIGHINGS), choices=WEIGHINGS)
    add('--iters', type=int, default=200, help='iterations of each calibration')
    add('--test', action='store_true', help='test the students, too')
    return parser.parse_args(argv)


# -- rows --------------------------------------------------------------------------


def make_row(args: argparse.Namespace, data: str, row: str) -> Config:
    """Return the config of a row, or of the student alone, on validation images."""
    if row == BASE:
        return gfl_pairs.alone(args.work_dir, data)
    file = gfl_pairs.teacher_file(args.weights, data)
    cfg = gfl_pairs.taught(args.work_dir, data, file)
    if row in (CARRIED, CALIBRATED):
        found = calibrate_once(args, data if row == CALIBRATED else 'bccd')
        for name, term in found.items():
            cfg.model.terms[name].weight = term['weight']
    elif row == HELD:
        cfg.model.balance = dict(type='GradientShare')
    cfg.custom_hooks = [dict(type='GradientShareHook', interval=INTERVAL)]
    return cfg


def calibrate_once(args: argparse.Namespace, data: str) -> dict[str, Any]:
    """Return what a calibration of the recipe's shares found on a data set, by term."""
    folder = args.work_dir / data / 'configs'
    found = folder / 'calibrated.json'
    if not found.is_file():
        gfl_pairs.prepare(args.work_dir, data)
        pair = folder / 'pair.py'
        dump(make_row(args, data, WHOLE), pair)
        files = ['--out', str(folder / 'calibrated.py'), '--json', str(found)]
        if code := calibrate.main([str(pair), *files, '--iters', str(args.iters)]):
            raise SystemExit(code)  # it has printed the error
    return read_json(found)['terms']


def rows_on(args: argparse.Namespace, data: str) -> tuple[str, ...]:
    """Return the rows of a data set; BCCD's own weights are not carried over."""
    return tuple(row for row in args.rows if (data, row) != ('bccd', CARRIED))


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
    report = read_json(args.out / f'calibration_{data}' / JSON)
    runs = args.work_dir / data / 'runs'
    return dict(
        split=report['split'],
        calibration=calibrate_once(args, data),
        metrics={row['name']: row.get('metric') for row in report['rows']},
        shares={
            row: shares_had(sorted(runs.glob(f'{file_stem(row)}-[0-9]*')))
            for row in rows_on(args, data)
        },
    )


def page(found: Mapping[str, Mapping[str, Any]], words: str) -> str:
    """Return the page of the ways to set weights.

    Args:
        found: What was measured, by data set.
        words: The last part of the page, from its heading on.
    """
    rows = (BASE, *WEIGHINGS)
    split = next(iter(found.values()))['split']
    lines = [
        '# Weights and shares',
        '',
        '    python benchmarks/measure_calibration.py --weights checkpoints --test',
        '',
        f'Box mAP on the {split} images. The weights of the recipe were found on BCCD'
        ' and playing cards; "calibrated" are those that `mkd-det calibrate` finds for'
        ' the shares of the recipe, on the data or on BCCD; "shares held" adjusts them'
        ' all the time.',
        'Raw numbers: [calibration.json](calibration.json); comparisons: '
        + ', '.join(f'[{data}](calibration_{data}/report.md)' for data in found)
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
    lines += [*_shares_table(found), '', '```{toctree}', ':hidden:', '']
    lines += [*(f'calibration_{data}/report' for data in found), POOLED, '```', '']
    return '\n'.join([*lines, words])


def words_of(file: Path) -> str:
    """Return what a page says in words, with its heading; '' where it says nothing."""
    text = file.read_text() if file.is_file() else ''
    return text[text.find(WORDS) :] if WORDS in text else ''


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
                ', '.join(
                    f'{v:.2g}' for v in shares.get(row, {}).get(term, {}).values()
                )
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
    file = args.out / 'calibration.json'
    for data in args.data:
        gfl_pairs.prepare(args.work_dir, data)
        folder = args.work_dir / data
        files = {}
        for row in (BASE, *rows_on(args, data)):
            files[row] = folder / 'configs' / f'{file_stem(row)}.py'
            dump(make_row(args, data, row), files[row])
        out = args.out / f'calibration_{data}'
        place = protocol.Place(folder, out, args.devices, args.epochs)
        protocol.run_compare(files, args.seeds, place, out, args.test)
        found = {**(read_json(file) or {}), data: collect(args, data)}
        write_json(file, found)
        text = file.with_suffix('.md')
        text.write_text(page(found, words_of(text)))


if __name__ == '__main__':
    raise SystemExit(main())
