#!/usr/bin/env python
"""Pool comparisons over data sets, and rows over teachers.

    python benchmarks/pooled.py docs/results/mkd_bccd docs/results/mkd_cards \
        docs/results/mkd_pcb --out docs/results/mkd_pooled

Each folder is the report of a comparison. A row with settings in its name
('M-KD, lr 0.01') or under another teacher ('M-KD, second teacher') counts as the row
('M-KD') with more figures. On each data set all rows are compared with the student
alone, or with the row of `--control`, by Dunnett's test. Over the data sets, rows are
ranked by the mean share of the gap between the student alone and its teachers that they
close. `--split val` reads the figures of validation images, of which things are chosen.
Writes <out>.json and <out>.md.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mkd_det.cli.common import guard
from mkd_det.errors import ExperimentError
from mkd_det.experiments.comparison.judging.statistics import compare_with_base, spread
from mkd_det.experiments.comparison.report.page import JSON
from mkd_det.io.json_files import finite, read_json, write_json

# Settings of the protocol, and the mark of another teacher, at the end of a name.
_ADDED = re.compile(
    r', (?:(?:[a-z]+ [\d.e+-]+)(?:, [a-z]+ [\d.e+-]+)*|second teacher)$'
)


@dataclass(frozen=True)
class PooledRow:
    """A row on one data set.

    Args:
        mean: Mean of its figures.
        deviation: Their standard deviation; None for one.
        count: Their number.
        gain: Mean minus that of the control.
        p_value: By Dunnett's test, for all rows together; None for the control.
        share: Part of the gap between the student alone and the teachers that it
            closes.
        image_error: Standard deviation over resampled test images, under the first
            teacher; None where they were not resampled, and for validation images.
    """

    mean: float
    deviation: float | None
    count: int
    gain: float
    p_value: float | None
    share: float
    image_error: float | None


def plain_name(row: str) -> str:
    """Return the name of a row without settings, and without its teacher."""
    while (shorter := _ADDED.sub('', row)) != row:
        row = shorter
    return row


def pool(
    report: Mapping[str, Any], split: str = '', control: str = ''
) -> dict[str, PooledRow]:
    """Return the pooled rows of a comparison; the first is the student alone.

    Args:
        report: Content of its json.
        split: 'val' for figures of validation images; else those of the report.
        control: The row that others are compared with; '' for the student alone.

    Raises:
        ExperimentError: The student alone has no figure, or there is no such control.
    """
    key: str = report['key']
    of = 'validation' if split == 'val' and report['split'] != 'val' else 'metrics'
    values: dict[str, list[float]] = {}
    for run in report['runs']:
        figure = run.get(of, {}).get(key)
        if figure is not None:  # null where a training has diverged
            values.setdefault(plain_name(run['row']), []).append(figure)
    alone = plain_name(report['runs'][0]['row'])
    if alone not in values:
        raise ExperimentError(f'{alone!r} has no figure', fix='train it once more')
    control = control or alone
    if control not in values:
        raise ExperimentError(
            f'there is no row {control!r}', available=list(values), fix='--control ROW'
        )
    goals = [(teacher.get(of) or {}).get(key) for teacher in report['teachers']]
    goal = spread([value for value in goals if value is not None]).mean
    others = {row: figures for row, figures in values.items() if row != control}
    analysis = compare_with_base({control: values[control], **others})
    means = {row: spread(figures) for row, figures in values.items()}
    base, zero = means[control].mean, means[alone].mean
    errors: dict[str, float] = {}
    for row in report.get('rows', ()) if of == 'metrics' else ():
        if row.get('image_error'):
            errors.setdefault(plain_name(row['name']), row['image_error']['deviation'])
    found = {}
    for row, known in means.items():
        difference = analysis.differences.get(row)
        found[row] = PooledRow(
            known.mean,
            known.deviation,
            known.count,
            known.mean - base,
            difference.p_value if difference else None,
            (known.mean - zero) / (goal - zero) if goal != zero else math.nan,
            errors.get(row),
        )
    return found


def rank(found: Mapping[str, Mapping[str, PooledRow]]) -> dict[str, float]:
    """Return the mean share of the gap of rows that all data sets have, best first.

    Args:
        found: Pooled rows by data set.
    """
    common = set.intersection(*(set(rows) for rows in found.values()))
    shares = {
        row: spread([rows[row].share for rows in found.values()]).mean for row in common
    }
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def page(
    found: Mapping[str, Mapping[str, PooledRow]],
    shares: Mapping[str, float],
    title: str,
    control: str = '',
) -> str:
    """Return the page: a row for each row, a column for each data set."""
    names = list(dict.fromkeys(row for rows in found.values() for row in rows))
    names.sort(key=lambda row: -shares.get(row, -math.inf))
    lines = [
        f'# {title}',
        '',
        "Mean ± standard deviation (number of trainings), with the p value of Dunnett's"
        f' test against {control or "the student alone"}, and after a semicolon the'
        ' error that the images leave; the last column is the mean share of the gap'
        ' to the teachers that is closed, where all data sets have the row.',
        '',
        '| | ' + ' | '.join([*found, 'share of the gap']) + ' |',
        '|---' * (len(found) + 2) + '|',
    ]
    for name in names:
        cells = [_cell(rows.get(name)) for rows in found.values()]
        share = f'{shares[name]:.0%}' if name in shares else ''
        lines.append('| ' + ' | '.join([name, *cells, share]) + ' |')
    return '\n'.join([*lines, ''])


def _cell(row: PooledRow | None) -> str:
    if row is None:
        return ''
    deviation = '' if row.deviation is None else f' ± {row.deviation:.3f}'
    chance = '' if row.p_value is None else f', p {row.p_value:.2g}'
    error = '' if row.image_error is None else f'; {row.image_error:.3f}'
    return f'{row.mean:.3f}{deviation} ({row.count}){chance}{error}'


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments: which reports, and where to write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('reports', type=Path, nargs='+', help='folders of comparisons')
    add('--out', type=Path, required=True, help='the files to write, without ending')
    add('--split', choices=('val', 'test'), default='test', help='default: test')
    add('--control', default='', help='row to compare with; default: the student alone')
    add('--title', default='Pooled over data sets')
    add('--debug', action='store_true', help='show tracebacks')
    return parser.parse_args(argv)


@guard
def main(argv: Sequence[str] | None = None) -> None:
    """Pool the reports, and write the figures."""
    args = parse_args(argv)
    found = {}
    for folder in args.reports:
        report = read_json(folder / JSON)
        if report is None:
            raise ExperimentError(
                'there is no report of a comparison',
                expected=folder / JSON,
                fix='folders that mkd-det compare --out has written',
            )
        name = str(folder) if folder.name in found else folder.name
        found[name] = pool(report, args.split, args.control)
    shares = rank(found)
    rows = {
        data: {row: asdict(value) for row, value in pooled.items()}
        for data, pooled in found.items()
    }
    write_json(Path(f'{args.out}.json'), finite(dict(data=rows, shares=shares)))
    Path(f'{args.out}.md').write_text(page(found, shares, args.title, args.control))


if __name__ == '__main__':
    raise SystemExit(main())
