"""The report of a comparison: one content, as a page, as markdown and as json."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...io import html as page
from ..runs import write_json
from .figures import draw_curves, draw_parts, draw_runs
from .runs import Outcome, cut_off
from .statistics import Difference, Spread, rule

PAGE, MARKDOWN, JSON = 'index.html', 'report.md', 'report.json'
RUNS, CURVES, PARTS = 'runs.png', 'curves.png', 'parts.png'


@dataclass(frozen=True)
class Comparison:
    """All that was run.

    Args:
        outcomes: The rows, the base first.
        metric: What counts, as people call it.
        key: The same in the log.
        seeds: Of all rows.
        steps: The budget of the base.
        unit: 'epochs' or 'iterations'.
        least: The least gain that counts.
        together: How many trainings ran at a time.
        command: That does it again.
        notes: What else must be known of all rows.
    """

    outcomes: Sequence[Outcome]
    metric: str
    key: str
    seeds: Sequence[int]
    steps: int
    unit: str
    least: float
    together: int
    command: str
    notes: Sequence[str] = ()

    @property
    def base(self) -> Outcome:
        return self.outcomes[0]

    @property
    def digits(self) -> int:
        """Behind the point: fewer for what is told in percent."""
        return 2 if self.base.figure.mean > 1 else 3


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Args:
        title: Above it.
        text: Paragraphs.
        points: A list.
        table: Its rows, the header first.
        picture: File name and caption.
        code: Lines to copy.
    """

    title: str
    text: Sequence[str] = ()
    points: Sequence[str] = ()
    table: Sequence[Sequence[str]] = ()
    picture: tuple[str, str] | None = None
    code: Sequence[str] = field(default=())


def write_report(comparison: Comparison, out: Path) -> None:
    """Write page, markdown, json and pictures into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    outcomes = comparison.outcomes
    values = {o.name: [run.metrics[comparison.key] for run in o.runs] for o in outcomes}
    draw_runs(values, {}, f'{comparison.metric}, a dot for each seed', out / RUNS)
    unit = comparison.unit.removesuffix('s')
    draw_curves(outcomes, comparison.metric, unit, out / CURVES)
    if all(outcome.parts for outcome in outcomes):
        draw_parts(outcomes, out / PARTS)
    made = sections(comparison)
    others = _listed(outcomes[1:]) or 'nothing yet'
    title = f'Compared with {comparison.base.name}: {others}'
    page.write_page(out / PAGE, title, _to_html(title, made))
    (out / MARKDOWN).write_text(_to_markdown(title, made), encoding='utf-8')
    write_json(out / JSON, _finite(entries(comparison)))


def _listed(outcomes: Sequence[Outcome], most: int = 4) -> str:
    """Names, as far as they fit into a title."""
    names = [outcome.name for outcome in outcomes]
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more


def entries(comparison: Comparison) -> dict[str, Any]:
    """All numbers: rows, and the runs that they come from."""
    whole = {k: v for k, v in vars(comparison).items() if k != 'outcomes'}
    outcomes = comparison.outcomes
    runs = [asdict(run) for outcome in outcomes for run in outcome.runs]
    return {**whole, 'rows': [o.entry() for o in outcomes], 'runs': runs}


def _finite(value: Any) -> Any:
    """Json knows no NaN: what there is nothing of is null."""
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- what it says -----------------------------------------------------------------


def sections(comparison: Comparison) -> list[Section]:
    """The whole report."""
    return [
        _overview(comparison),
        _in_words(comparison),
        _caveats(comparison),
        _parts(comparison),
        _curves(comparison),
        _costs(comparison),
        Section('How it is judged', text=rule(comparison.least)),
        _again(comparison),
    ]


def _overview(comparison: Comparison) -> Section:
    base, digits = comparison.base, comparison.digits
    seeds = ', '.join(map(str, comparison.seeds))
    header = (
        'row', comparison.metric, 'difference',
        '95 %, bootstrap', "95 %, Student's t", 'verdict',
    )  # fmt: skip
    rows = [
        (
            outcome.name + ('*' if outcome.marks else ''),
            _shown(outcome.figure, digits),
            *_difference(outcome.difference, digits),
            outcome.verdict.word if outcome.verdict else 'the base',
        )
        for outcome in comparison.outcomes
    ]
    text = [
        f'Each row trains the student of "{base.name}" ({base.params:,} parameters)'
        f' for {comparison.steps} {comparison.unit}, with seeds'
        f' {seeds}. What counts is {comparison.metric} ({comparison.key}) after the'
        ' last step; more is better. Mean ± standard deviation over the seeds; the'
        ' difference is to the base, seed by seed.',
    ]
    if any(outcome.marks for outcome in comparison.outcomes):
        text.append(
            'Rows with * differ from the base in more than how they are taught; see'
            ' below.'
        )
    return Section(
        'What came out',
        text=text,
        table=(header, *rows),
        picture=(RUNS, f'{comparison.metric} of every run, and the mean of each row.'),
    )


def _difference(difference: Difference | None, digits: int) -> tuple[str, ...]:
    if difference is None:
        return '', '', ''
    intervals = (difference.bootstrap, difference.student)
    return (
        _shown(difference.spread, digits, sign='+'),
        *(
            f'{pair[0]:+.{digits}f} to {pair[1]:+.{digits}f}' if pair else '-'
            for pair in intervals
        ),
    )


def _in_words(comparison: Comparison) -> Section:
    points = []
    for outcome in comparison.outcomes[1:]:
        assert outcome.verdict is not None and outcome.difference is not None
        mean = outcome.difference.spread.mean
        if math.isnan(mean):
            points.append(f'{outcome.name}: not measured on this data.')
            continue
        marked = f' Mind: {"; ".join(outcome.marks)}.' if outcome.marks else ''
        points.append(
            f'{outcome.name}: {outcome.verdict.word}. {mean:+.{comparison.digits}f}'
            f' {comparison.metric} on the mean; {outcome.verdict.reason}.{marked}'
        )
    return Section('In words', points=points or ['Nothing can be compared yet.'])


def _caveats(comparison: Comparison) -> Section:
    marked = [o for o in comparison.outcomes if o.marks]
    points = [f'{o.name}: {mark}' for o in marked for mark in o.marks]
    equal = (
        'All other rows begin, seed by seed, with the very weights of the base (bit for'
        ' bit; looked at before the first run), on the same data, with the same'
        ' schedule.'
    )
    if not marked:
        equal = equal.replace('All other rows', 'All rows')
    return Section(
        'Is it like with like?', text=(equal, *comparison.notes), points=points
    )


def _parts(comparison: Comparison) -> Section:
    title = 'AP by size and by class'
    parts: dict[str, dict[str, None]] = {}
    for outcome in comparison.outcomes:
        for kind, known in outcome.parts.items():
            parts.setdefault(kind, {}).update(dict.fromkeys(known))
    if not parts:
        return Section(
            title, text=('Not measured: it takes a CocoMetric in `val_evaluator`.',)
        )
    names = [(kind, name) for kind, inner in parts.items() for name in inner]
    none = Spread(math.nan, None, 0)
    rows = [
        (o.name, *(_shown(o.parts.get(k, {}).get(n, none), 3) for k, n in names))
        for o in comparison.outcomes
    ]
    return Section(
        title,
        text=('COCO box AP. - where the validation data has nothing of it.',),
        table=(('row', *(f'{kind}: {name}' for kind, name in names)), *rows),
        picture=(PARTS, 'Mean, and standard deviation over the seeds.')
        if all(outcome.parts for outcome in comparison.outcomes)
        else None,
    )


def _curves(comparison: Comparison) -> Section:
    caption = (
        'Means; the band is from the least to the largest of the seeds. The loss is'
        ' loss_cls, loss_bbox and loss_dfl of the student; without any of these names,'
        ' all of it, with what teachers add.'
    )
    every = [run for outcome in comparison.outcomes for run in outcome.runs]
    lost = [run for o in comparison.outcomes for run in cut_off(o.runs, every)]
    told = ', '.join(f'{run.row} with seed {run.seed}' for run in lost)
    text = [f'Left out, since a part of the log was lost: {told}.'] if lost else []
    return Section('Learning curves', text=text, picture=(CURVES, caption))


def _costs(comparison: Comparison) -> Section:
    base = comparison.base
    header = ('row', 's / iteration', 'extra', 'MiB', 'extra', 's / training')
    rows = [
        (
            o.name,
            _shown(o.iteration, 3),
            _extra(o.extra_iteration, base.iteration, 3) if o is not base else '',
            _shown(o.memory, 0),
            _extra(o.extra_memory, base.memory, 0) if o is not base else '',
            f'{sum(run.seconds for run in o.runs) / len(o.runs):.0f}',
        )
        for o in comparison.outcomes
    ]
    kinds = {run.memory_of for o in comparison.outcomes for run in o.runs}
    memory = {
        'GPU': 'Memory: most that torch has held on the GPU.',
        'process': 'Memory: most that the training process has held of the main memory,'
        ' with its libraries; processes that load data are not counted.',
        '': 'Memory: "-" where neither a GPU nor the system (Linux) tells.',
    }
    text = [
        'Wall-clock seconds of this machine: the median over the logged iterations of a'
        ' run, its data included; mean over the seeds. Of a training: over all its'
        ' starts, its validations included.'
    ]
    if comparison.together > 1:
        text.append(
            f'{comparison.together} trainings ran at a time; where they shared a device'
            ' or cores, these are no seconds of a training alone.'
        )
    text += [words for kind, words in memory.items() if kind in kinds]
    return Section('What it costs', text=text, table=(header, *rows))


def _extra(extra: Spread, base: Spread, digits: int) -> str:
    if not extra.count or not base.mean:
        return '-'
    share = 100 * extra.mean / base.mean
    return f'{extra.mean:+.{digits}f} ({share:+.0f} %)'


def _again(comparison: Comparison) -> Section:
    points = [f'{o.name}: from {o.source}; {o.config}' for o in comparison.outcomes]
    return Section(
        'How to do it again',
        text=(
            f'All numbers, and the command of every run: {JSON}. The complete config of'
            ' each row, which tools/train.py runs by itself:',
        ),
        points=points,
        code=(comparison.command,),
    )


def _shown(spread: Spread, digits: int, sign: str = '') -> str:
    if not spread.count:
        return '-'
    mean = f'{spread.mean:{sign}.{digits}f}'
    if spread.deviation is None:
        return mean
    return f'{mean} ± {spread.deviation:.{digits}f}'


# -- how it is written --------------------------------------------------------------


def _to_html(title: str, made: Sequence[Section]) -> str:
    parts = [f'<h1>{html.escape(title)}</h1>\n']
    for section in made:
        parts.append(f'<h2>{html.escape(section.title)}</h2>\n')
        parts += [f'<p>{html.escape(text)}</p>\n' for text in section.text]
        if section.points:
            items = ''.join(f'<li>{html.escape(p)}</li>\n' for p in section.points)
            parts.append(f'<ul>\n{items}</ul>\n')
        if section.table:
            wide = page.table(section.table[0], section.table[1:])
            parts.append(f'<div style="overflow-x: auto">\n{wide}</div>\n')
        if section.picture:
            parts.append(page.figure(*section.picture))
        if section.code:
            parts.append(f'<pre>{html.escape(chr(10).join(section.code))}</pre>\n')
    return ''.join(parts)


def _to_markdown(title: str, made: Sequence[Section]) -> str:
    blocks = [f'# {_escaped(title)}']
    for section in made:
        blocks.append(f'## {_escaped(section.title)}')
        blocks += [_escaped(text) for text in section.text]
        if section.points:
            blocks.append('\n'.join(f'- {_escaped(p)}' for p in section.points))
        if section.table:
            header, *rows = [[_escaped(c) for c in row] for row in section.table]
            lines = [header, ['---'] * len(header), *rows]
            blocks.append('\n'.join(f'| {" | ".join(line)} |' for line in lines))
        if section.picture:
            name, caption = section.picture
            blocks.append(f'![{_escaped(caption)}]({name})')
        blocks += [f'    {line}' for line in section.code]
    return '\n\n'.join(blocks) + '\n'


def _escaped(text: str) -> str:
    """Without what markdown would take for its own."""
    text = html.escape(text, quote=False)
    for sign in '\\|*_`[]':
        text = text.replace(sign, f'\\{sign}')
    return text.replace('\n', ' ')
