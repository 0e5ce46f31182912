"""The text of a comparison's report, in markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...io import markdown
from ...io.markdown import escape
from .results import Comparison
from .statistics import PairedDifference, Spread, verdict_rule
from .summary import with_incomplete_log

# Files beside the text.
JSON = 'report.json'
RUNS, CURVES, PARTS = 'runs.png', 'curves.png', 'parts.png'

_MEMORY_NOTES = {
    'GPU': 'Memory: peak of what torch has allocated on the GPU.',
    'process': 'Memory: peak main memory of the training process with its libraries,'
    ' without processes that load data.',
    '': 'Memory: "-" where neither a GPU nor the system (Linux) reports it.',
}


def to_markdown(title: str, comparison: Comparison) -> str:
    """Return the whole report.

    Args:
        title: Its heading.
        comparison: The results.
    """
    blocks = [
        f'# {escape(title)}',
        *_overview(comparison),
        *_verdicts(comparison),
        *_caveats(comparison),
        *_parts(comparison),
        *_curves(comparison),
        *_costs(comparison),
        '## How verdicts are reached',
        *map(escape, verdict_rule(comparison.least_gain)),
        *_reproduction(comparison),
    ]
    return '\n\n'.join(blocks) + '\n'


def overview_table(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return the main table as plain text, the header first."""
    digits = comparison.digits
    header = (
        'row',
        comparison.metric,
        'difference',
        '95 %, bootstrap',
        "95 %, Student's t",
        'verdict',
    )
    rows = [
        (
            row.name + ('*' if row.caveats else ''),
            _shown(row.metric, digits),
            *_difference_cells(row.difference, digits),
            row.verdict.word if row.verdict else 'the base',
        )
        for row in comparison.rows
    ]
    return [header, *rows]


def _overview(comparison: Comparison) -> list[str]:
    base = comparison.base
    seeds = ', '.join(map(str, comparison.seeds))
    texts = [
        f'Each row trains the student of "{base.name}" ({base.params:,} parameters)'
        f' for {comparison.steps} {comparison.unit}, with seeds {seeds}. What counts is'
        f' {comparison.metric} ({comparison.key}) after the last step; higher is'
        ' better. Numbers are mean ± standard deviation over the seeds; differences are'
        ' to the base, seed by seed.'
    ]
    if any(row.caveats for row in comparison.rows):
        texts.append(
            'Rows with * differ from the base in more than how the student is taught;'
            ' see below.'
        )
    caption = f'{comparison.metric} of every training, and the mean of each row.'
    return [
        '## Results',
        *map(escape, texts),
        _table(overview_table(comparison)),
        markdown.picture(RUNS, caption),
    ]


def _difference_cells(
    difference: PairedDifference | None, digits: int
) -> tuple[str, ...]:
    if difference is None:
        return '', '', ''
    intervals = (difference.bootstrap, difference.student_t)
    return (
        _shown(difference.spread, digits, sign='+'),
        *(
            f'{bounds[0]:+.{digits}f} to {bounds[1]:+.{digits}f}' if bounds else '-'
            for bounds in intervals
        ),
    )


def _verdicts(comparison: Comparison) -> list[str]:
    points = []
    for row in comparison.rows[1:]:
        assert row.verdict is not None and row.difference is not None
        mean = row.difference.spread.mean
        if math.isnan(mean):
            points.append(f'{row.name}: not measured on this data.')
            continue
        caveats = f' Caveats: {"; ".join(row.caveats)}.' if row.caveats else ''
        points.append(
            f'{row.name}: {row.verdict.word}. {mean:+.{comparison.digits}f}'
            f' {comparison.metric} on average; {row.verdict.reason}.{caveats}'
        )
    return ['## Verdicts', _bullets(points or ['There is nothing to compare yet.'])]


def _caveats(comparison: Comparison) -> list[str]:
    points = [f'{row.name}: {text}' for row in comparison.rows for text in row.caveats]
    others = 'All other rows' if points else 'All rows'
    texts = [
        f'{others} begin, seed by seed, with exactly the initial weights of the base'
        ' (compared bit by bit before the first training), on the same data and with'
        ' the same schedule.',
        *comparison.notes,
    ]
    listed = [_bullets(points)] if points else []
    return ['## Are the rows comparable?', *map(escape, texts), *listed]


def _parts(comparison: Comparison) -> list[str]:
    title = '## AP by size and by class'
    parts: dict[str, dict[str, None]] = {}
    for row in comparison.rows:
        for kind, known in row.parts.items():
            parts.setdefault(kind, {}).update(dict.fromkeys(known))
    if not parts:
        text = 'Not measured: this needs a CocoMetric in `val_evaluator`.'
        return [title, escape(text)]
    names = [(kind, name) for kind, inner in parts.items() for name in inner]
    none = Spread(math.nan, None, 0)
    rows = [
        (row.name, *(_shown(row.parts.get(k, {}).get(n, none), 3) for k, n in names))
        for row in comparison.rows
    ]
    header = ('row', *(f'{kind}: {name}' for kind, name in names))
    caption = 'Mean, and standard deviation over the seeds.'
    drawn = has_parts(comparison)
    return [
        title,
        'COCO box AP. "-": the validation data has no such objects.',
        _table([header, *rows]),
        *([markdown.picture(PARTS, caption)] if drawn else []),
    ]


def _curves(comparison: Comparison) -> list[str]:
    caption = (
        'Means; the band reaches from the smallest to the largest value of the seeds.'
        ' The loss is loss_cls, loss_bbox and loss_dfl of the student. If it has none'
        ' of these, it is the whole loss, with the terms.'
    )
    of_all = [result for row in comparison.rows for result in row.results]
    incomplete = [
        result
        for row in comparison.rows
        for result in with_incomplete_log(row.results, of_all)
    ]
    named = ', '.join(f'{r.row} with seed {r.seed}' for r in incomplete)
    texts = [f'Left out because their logs are incomplete: {named}.'] if named else []
    return [
        '## Learning curves',
        *map(escape, texts),
        markdown.picture(CURVES, caption),
    ]


def _costs(comparison: Comparison) -> list[str]:
    base = comparison.base
    header = ('row', 's / iteration', 'extra', 'MiB', 'extra', 's / training')
    rows = [
        (
            row.name,
            _shown(row.iteration, 3),
            _extra(row.extra_iteration, base.iteration, 3) if row is not base else '',
            _shown(row.memory, 0),
            _extra(row.extra_memory, base.memory, 0) if row is not base else '',
            f'{sum(r.seconds for r in row.results) / len(row.results):.0f}',
        )
        for row in comparison.rows
    ]
    texts = [
        'Wall-clock seconds on this machine. Per iteration: median over the logged'
        ' iterations, data loading included; mean over the seeds. Per training: over'
        ' all its starts, validations included.'
    ]
    if comparison.parallel > 1:
        texts.append(
            f'{comparison.parallel} trainings ran at a time. Where they shared a device'
            ' or cores, a training alone takes less.'
        )
    kinds = {result.memory_of for row in comparison.rows for result in row.results}
    texts += [note for kind, note in _MEMORY_NOTES.items() if kind in kinds]
    return ['## Costs', *map(escape, texts), _table([header, *rows])]


def _extra(extra: Spread, base: Spread, digits: int) -> str:
    if not extra.count or not base.mean:
        return '-'
    share = 100 * extra.mean / base.mean
    return f'{extra.mean:+.{digits}f} ({share:+.0f} %)'


def _reproduction(comparison: Comparison) -> list[str]:
    points = [f'{row.name}: from {row.source}; {row.config}' for row in comparison.rows]
    text = (
        f'{JSON} has all numbers, and the command of every training. The complete'
        ' config of each row, which mkd-det train runs by itself:'
    )
    return [
        '## How to repeat it',
        escape(text),
        _bullets(points),
        markdown.code_block([comparison.command]),
    ]


def has_parts(comparison: Comparison) -> bool:
    """Tell whether AP by size and by class is known for every row."""
    return all(row.parts for row in comparison.rows)


def _shown(value: Spread, digits: int, sign: str = '') -> str:
    if not value.count:
        return '-'
    mean = f'{value.mean:{sign}.{digits}f}'
    if value.deviation is None:
        return mean
    return f'{mean} ± {value.deviation:.{digits}f}'


def _table(lines: Sequence[Sequence[str]]) -> str:
    header, *rows = ([escape(cell) for cell in line] for line in lines)
    return markdown.table(header, rows)


def _bullets(points: Sequence[str]) -> str:
    return markdown.bullet_list(map(escape, points))
