"""Tables of a comparison's report: results, parts of the metric, costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ....io import markdown
from ....io.markdown import escape
from ..judging.statistics import Difference, Spread
from ..results import Comparison

PARTS = 'parts.png'  # a file beside the text

_MEMORY_NOTES = {
    'GPU': 'Memory: peak of what torch has allocated on the GPU.',
    'process': 'Memory: peak main memory of the training process with its libraries,'
    ' without processes that load data.',
    '': 'Memory: "-" where neither a GPU nor the system (Linux) reports it.',
}


def overview_table(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return the main table as plain text, the header first."""
    digits = comparison.digits
    with_50 = any(row.metric_50.count for row in comparison.rows)
    tested = comparison.split == 'test'
    with_gap = any(row.gap_closed is not None for row in comparison.rows)
    header = [
        'row',
        f'{comparison.metric} ({comparison.split})',
        *(['on val'] * tested),
        *(['mAP50'] * with_50),
        'difference',
        '95 %, Dunnett',
        *(['gap closed'] * with_gap),
        'verdict',
    ]
    rows = [
        [
            f'(teacher {teacher.name})',
            _figure(teacher.metrics.get(comparison.key), digits),
            *([_figure(teacher.validation.get(comparison.key), digits)] * tested),
            *([_figure(teacher.metrics.get(f'{comparison.key}_50'), 3)] * with_50),
            *('', ''),
            *([''] * with_gap),
            'measured once' if teacher.metrics else 'not measured',
        ]
        for teacher in comparison.teachers
    ]
    rows += [
        [
            row.name + ('*' if row.caveats else ''),
            _shown(row.metric, digits),
            *([_shown(row.validation, digits)] * tested),
            *([_shown(row.metric_50, 3)] * with_50),
            *_difference_cells(row.difference, digits),
            *([_percent(row.gap_closed)] * with_gap),
            row.verdict.word if row.verdict else 'the base',
        ]
        for row in comparison.rows
    ]
    return [tuple(line) for line in (header, *rows)]


def _figure(value: float | None, digits: int) -> str:
    return '-' if value is None or math.isnan(value) else f'{value:.{digits}f}'


def _percent(share: float | None) -> str:
    return '' if share is None else f'{100 * share:.0f} %'


def _difference_cells(difference: Difference | None, digits: int) -> tuple[str, str]:
    if difference is None or math.isnan(difference.mean):
        return '', ''
    mean = f'{difference.mean:+.{digits}f}'
    if difference.interval is None:
        return mean, '-'
    low, high = difference.interval
    return mean, f'{low:+.{digits}f} to {high:+.{digits}f}'


def image_section(comparison: Comparison) -> list[str]:
    """Return the section on the error that comes from the images."""
    known = [row for row in comparison.rows if row.image_error is not None]
    if not known:
        return []
    digits = comparison.digits + 1
    rows = []
    for row in known:
        error = row.image_error
        assert error is not None
        cells = ['', '']
        if error.difference is not None and error.interval is not None:
            low, high = error.interval
            cells = [
                f'± {error.difference:.{digits}f}',
                f'{low:+.{digits}f} to {high:+.{digits}f}',
            ]
        rows.append((row.name, f'± {error.deviation:.{digits}f}', *cells))
    count = known[0].image_error.images if known[0].image_error else 0
    header = ('row', 'mean', 'difference', '95 %')
    text = (
        f'The {count} images are a sample, too: on others of the same kind, figures'
        f' would be other ones. Standard deviations from {comparison.resamples}'
        ' bootstrap samples of the images, of the mean over the seeds and of its'
        ' difference to the base, for which both get the same samples. This error'
        ' stands beside the spread over the seeds; more seeds do not make it smaller,'
        ' and it is not part of the verdicts.'
    )
    return ['### Error of the images', escape(text), table([header, *rows])]


def parts_section(comparison: Comparison) -> list[str]:
    """Return the section on AP by size and by class."""
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
        table([header, *rows]),
        *([markdown.picture(PARTS, caption)] if drawn else []),
    ]


def costs_section(comparison: Comparison) -> list[str]:
    """Return the section on seconds and memory."""
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
    return ['## Costs', *map(escape, texts), table([header, *rows])]


def _extra(extra: Spread, base: Spread, digits: int) -> str:
    if not extra.count or not base.mean:
        return '-'
    share = 100 * extra.mean / base.mean
    return f'{extra.mean:+.{digits}f} ({share:+.0f} %)'


def has_parts(comparison: Comparison) -> bool:
    """Tell whether AP by size and by class is known for every row."""
    return all(row.parts for row in comparison.rows)


def _shown(value: Spread, digits: int) -> str:
    if not value.count:
        return '-'
    mean = f'{value.mean:.{digits}f}'
    if value.deviation is None:
        return mean
    return f'{mean} ± {value.deviation:.{digits}f}'


def table(lines: Sequence[Sequence[str]]) -> str:
    """Return a table in markdown; the first line is its header."""
    header, *rows = ([escape(cell) for cell in line] for line in lines)
    return markdown.table(header, rows)
