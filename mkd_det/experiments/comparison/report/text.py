"""The text of a comparison's report, in markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ....io import markdown
from ....io.markdown import escape
from ...detections import MIN_SCORE
from ..judging.more_seeds import extend_seeds, seeds_needed, with_seeds
from ..judging.power import MOST, POWER, gain_found_by, seeds_for_gain
from ..judging.statistics import DID_NOT_HELP, HELPED, verdict_rule
from ..results import Comparison
from ..summary import with_incomplete_log
from .tables import costs_section, image_section, overview_table, parts_section, table

# Files beside the text.
JSON = 'report.json'
RUNS, CURVES = 'runs.png', 'curves.png'
DETECTIONS = 'detections.png'

_DATA = {'val': 'validation', 'test': 'test'}
_SPLITS = {
    'val': 'All figures are of the validation data. Figures by which weights, rates or'
    ' rows were chosen are too good: choose on val, report on test (--test).',
    'test': 'Chosen on val, reported on test: figures and verdicts are of the test'
    ' data, on which each student was evaluated once, after all trainings. Learning'
    ' curves are of the validation data.',
}
_OPTIONAL_STOPPING = (
    'Adding seeds after a look at the results, until they please, is optional stopping:'
    ' every look is one more chance for luck, and the intervals and verdicts no longer'
    ' hold at 95 %. Decide on a number of seeds beforehand, or tell the looks with the'
    ' result.'
)


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
        *_more_seeds(comparison),
        *_detections(comparison),
        *_caveats(comparison),
        *parts_section(comparison),
        *_curves(comparison),
        *costs_section(comparison),
        '## How verdicts are reached',
        *map(escape, verdict_rule(comparison.least_gain)),
        *_reproduction(comparison),
    ]
    return '\n\n'.join(blocks) + '\n'


def _overview(comparison: Comparison) -> list[str]:
    base, data = comparison.base, _DATA[comparison.split]
    seeds = ', '.join(map(str, comparison.seeds))
    texts = [
        f'Each row trains the student of "{base.name}" ({base.params:,} parameters)'
        f' for {comparison.steps} {comparison.unit}, with seeds {seeds}. What counts is'
        f' {comparison.metric} ({comparison.key}) on the {data} data after the last'
        ' step; higher is better. Numbers are mean ± standard deviation over the seeds;'
        ' differences are to the mean of the base.',
        _SPLITS[comparison.split],
        *_teacher_texts(comparison),
        *_seed_texts(comparison),
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
        table(overview_table(comparison)),
        markdown.picture(RUNS, caption),
        *image_section(comparison),
    ]


def _teacher_texts(comparison: Comparison) -> list[str]:
    """Describe what was measured of the teachers."""
    texts = [
        f'Teacher {teacher.name} is not measured: {teacher.reason}.'
        for teacher in comparison.teachers
        if teacher.reason
    ]
    if any(row.gap_closed is not None for row in comparison.rows):
        texts.append(
            f'Teachers were measured once, on all {comparison.split} images of the'
            ' base. "Gap'
            ' closed" is the part of the way from the base to the teacher (the best one'
            ' of the row) that the row has gone.'
        )
    return texts


def _seed_texts(comparison: Comparison) -> list[str]:
    """Describe rows whose seeds are not those of the base."""
    seeds = {row.name: ', '.join(map(str, row.seeds)) for row in comparison.rows}
    base = seeds[comparison.base.name]
    return [
        f'{name} has seeds {own}, the base {base}; means, differences and intervals are'
        ' over all that are there.'
        for name, own in seeds.items()
        if own != base
    ]


def _verdicts(comparison: Comparison) -> list[str]:
    points = []
    for row in comparison.rows[1:]:
        assert row.verdict is not None and row.difference is not None
        mean = row.difference.mean
        if math.isnan(mean):
            points.append(f'{row.name}: not measured on this data.')
            continue
        caveats = f' Caveats: {"; ".join(row.caveats)}.' if row.caveats else ''
        points.append(
            f'{row.name}: {row.verdict.word}. {mean:+.{comparison.digits}f}'
            f' {comparison.metric} on average; {row.verdict.reason}.{caveats}'
        )
    return [
        '## Verdicts',
        _bullets(points or ['There is nothing to compare yet.']),
        *map(escape, [*_spread_texts(comparison), *power_texts(comparison)]),
    ]


def _spread_texts(comparison: Comparison) -> list[str]:
    """Describe the pooled spread, and the rows that it does not describe."""
    pooled = comparison.pooled
    if pooled.deviation is None:
        return []
    texts = [
        'Standard deviation over the seeds, pooled over all rows:'
        f' {pooled.deviation:.2g} ({pooled.freedom} degrees of freedom).'
    ]
    deviations = {row.name: row.metric.deviation for row in comparison.rows}
    if pooled.uneven:
        listed = ', '.join(f'{n} ({deviations[n]:.2g})' for n in pooled.uneven)
        texts.append(
            f'Warning: the spread of {listed} is far from it (Brown-Forsythe test), so'
            ' that the assumption of equal spreads does not hold. The interval of a row'
            ' is too short if its own spread is the larger one, and too long if it is'
            ' the smaller one.'
        )
    return texts


def power_texts(comparison: Comparison) -> list[str]:
    """Say how many seeds it takes to find a gain; nothing without a spread.

    Args:
        comparison: The results.
    """
    deviation, rows = comparison.pooled.deviation, len(comparison.rows) - 1
    if not deviation or not rows:
        return []
    least = comparison.least_gain or deviation
    wanted = []
    for gain in (least, 2 * least, 4 * least):
        seeds = seeds_for_gain(gain, deviation, rows) or f'more than {MOST}'
        wanted.append(f'{seeds} for a gain of {gain:.3g}')
    seeds = min(row.metric.count for row in comparison.rows)
    found = gain_found_by(seeds, deviation, rows)
    now = '' if found is None else f' The {seeds} of now find one of {found:.2g}.'
    return [
        f'Seeds of each row that find a gain with a chance of {100 * POWER:.0f} %, if'
        f' the spread stays as it is: {", ".join(wanted)}.{now}'
    ]


def _more_seeds(comparison: Comparison) -> list[str]:
    """Say how often the comparison was looked at, and how to go on."""
    texts = []
    if comparison.looks:
        before = '; '.join(', '.join(map(str, look)) for look in comparison.looks)
        texts.append(
            'This comparison was looked at before, with fewer seeds'
            f' ({before}). {_OPTIONAL_STOPPING}'
        )
    command = command_with_more_seeds(comparison)
    if not command:
        return list(map(escape, texts))
    texts.append(
        'For rows of which it cannot be told, this command adds seeds; what is trained'
        ' is not trained again. The number is an estimate: it would do if means and'
        ' spread stay as they are.'
    )
    if not comparison.looks:
        texts.append(f'Beware of adding seeds again and again. {_OPTIONAL_STOPPING}')
    return [
        '### More seeds',
        *map(escape, texts),
        markdown.code_block([command]),
    ]


def command_with_more_seeds(comparison: Comparison) -> str:
    """Return the command that gives undecided rows more seeds; '' if all are decided.

    Args:
        comparison: The results.
    """
    undecided = [
        row.difference
        for row in comparison.rows
        if row.verdict is not None
        and row.verdict.word not in (HELPED, DID_NOT_HELP)
        and row.difference is not None
        and row.difference.count
    ]
    if not undecided or not comparison.command:
        return ''
    deviation, rows = comparison.pooled.deviation, len(comparison.rows) - 1
    needed = [
        seeds_needed(one, deviation, rows, comparison.least_gain) for one in undecided
    ]
    seeds = extend_seeds(comparison.seeds, max(needed))
    if len(seeds) == len(comparison.seeds):
        return ''
    return with_seeds(comparison.command, seeds)


def _detections(comparison: Comparison) -> list[str]:
    if not comparison.detections:
        return []
    seed = comparison.base.seeds[0]
    caption = (
        f'Detections with a score of at least {MIN_SCORE} on validation images, evenly'
        f' spaced; students of seed {seed}.'
    )
    return ['## Detections', markdown.picture(DETECTIONS, caption)]


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


def _bullets(points: Sequence[str]) -> str:
    return markdown.bullet_list(map(escape, points))
