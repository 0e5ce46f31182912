"""The metric of teacher and students: overall, per class, and over the training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....errors import MkdError
from ....io import markdown
from ....io.markdown import escape
from ...comparison.measuring.evaluation import evaluate
from ...comparison.measuring.teachers import (
    TeacherSource,
    add_teachers,
    measure_teachers,
)
from ...comparison.summary import ap_by_part
from ...curves import Curve, Panel, draw_panels
from ...runs import History, read_history
from ...runs.history import is_coco_metric
from ...runs.metrics import main_metric
from .finished_run import FinishedRun, Missing

CURVES = 'curves.png'
STUDENT, ALONE_TITLE = 'student', 'student alone'
# One colour for each model, told apart by colour-blind people, too.
COLOURS = {'teacher': '#555555', ALONE_TITLE: '#D55E00', STUDENT: '#0072B2'}
_CLASS_END = '_precision'


def metrics_part(run: FinishedRun, out: Path) -> list[str]:
    """Measure teachers and students on the validation data.

    Args:
        run: The distillation.
        out: Folder of the page; what teachers reach is kept there.

    Returns:
        Blocks of markdown.

    Raises:
        Missing: There is no validation data.
    """
    run.check_validation()
    columns, notes = _measure_teachers(run, out)
    if run.alone_weights is not None:
        columns[ALONE_TITLE] = evaluate(run.alone, run.plain).metrics
        notes.append(f'The student alone: {run.alone_weights}.')
    else:
        notes.append(_how_to_train_alone(run))
    columns[STUDENT] = evaluate(run.student, run.plain).metrics
    notes.append(f'The student: {run.files[1]}.')
    run.figures['metrics'] = columns
    return [
        escape(_summary(run, columns)),
        _overall_table(columns, main_metric(run.plain, 'the student')[1]),
        *_class_table(columns),
        markdown.bullet_list(map(escape, notes)),
    ]


def _measure_teachers(
    run: FinishedRun, out: Path
) -> tuple[dict[str, Mapping[str, float]], list[str]]:
    sources: dict[str, TeacherSource] = {}
    model = run.distiller
    identities = {
        f'teacher {name}': f'{one.weights} {one.config.cfg}'
        for name, one in model.teachers.items()
    }
    add_teachers(sources, STUDENT, model, identities)
    columns: dict[str, Mapping[str, float]] = {}
    notes = []
    for found in measure_teachers(sources, run.plain, out):
        title = f'teacher {found.name}'
        if found.reason:
            notes.append(f'Teacher {found.name} is not measured: {found.reason}.')
        else:
            columns[title] = found.metrics
    for source in sources.values():
        if source.classes is not None:
            notes.append(
                f'Teacher {source.name} has other classes. It is measured on those that'
                f' it shares: {source.classes.summary()}.'
            )
    return columns, notes


def _how_to_train_alone(run: FinishedRun) -> str:
    config = run.config.parent / 'student.py'
    return (
        'The student alone was not trained, so what distillation gains is not known.'
        f' This trains it: mkd-det train {config} --work-dir {run.alone_dir}. Then'
        ' repeat mkd-det distill with --resume, which makes this page again.'
    )


def _summary(run: FinishedRun, columns: Mapping[str, Mapping[str, float]]) -> str:
    name, key = main_metric(run.plain, 'the student')
    values = {title: _value(metrics, key) for title, metrics in columns.items()}
    parts = [f'{title} {_shown(value)}' for title, value in values.items()]
    text = f'{name} on the validation data: {", ".join(parts)}.'
    if ALONE_TITLE in values:
        gain = values[STUDENT] - values[ALONE_TITLE]
        text += f' Taught, the student gains {gain:+.3f} over itself alone; one seed.'
    return text


def _value(metrics: Mapping[str, float], key: str) -> float:
    """Return a metric; CocoMetric logs nothing when nothing was found."""
    return metrics.get(key, 0.0 if is_coco_metric(key) else math.nan)


def _overall_table(columns: Mapping[str, Mapping[str, float]], main: str) -> str:
    others = (key for found in columns.values() for key in found if not _is_class(key))
    rows = [
        # A model that finds nothing has no figures at all, which counts as 0.
        [escape(key), *(_shown(_value(m, key)) for m in columns.values())]
        for key in dict.fromkeys([main, *others])
    ]
    return markdown.table(['metric', *map(escape, columns)], rows)


def _is_class(key: str) -> bool:
    return key.endswith(_CLASS_END)


def _class_table(columns: Mapping[str, Mapping[str, float]]) -> list[str]:
    known = {title: ap_by_part(m).get('class', {}) for title, m in columns.items()}
    names = dict.fromkeys(name for found in known.values() for name in found)
    if not names:
        return ['Not measured per class: this needs a CocoMetric that finds something.']
    rows = [
        [escape(name), *(_shown(found.get(name)) for found in known.values())]
        for name in names
    ]
    return [
        markdown.table(['AP by class', *map(escape, columns)], rows),
        '"-": not measured, or the validation data has no such objects.',
    ]


def _shown(value: float | None) -> str:
    if value is None or math.isnan(value):
        return '-'
    return f'{value:.3f}' if abs(value) <= 1 else f'{value:.2f}'


def curves_part(run: FinishedRun, out: Path) -> list[str]:
    """Draw the metric, the student's own loss, and the terms.

    Args:
        run: The distillation.
        out: Folder of the page.

    Returns:
        Blocks of markdown.

    Raises:
        Missing: The training has left no log.
    """
    history = read_history(run.run_dir)
    if not history.losses:
        raise Missing(f'there is no log in {run.run_dir}')
    histories = {STUDENT: history}
    if run.alone_weights is not None:
        histories[ALONE_TITLE] = read_history(run.alone_dir)
    teacher = read_history(run.work_dir / 'teacher')
    if teacher.losses:  # it was trained here
        histories['teacher'] = teacher
    own = [_curve(n, h.losses) for n, h in histories.items() if n != 'teacher']
    terms = _terms(run, history)
    panels = [
        *_metric_panel(run, histories),
        Panel("the student's own loss, in training", 'iteration', own),
        Panel(
            'terms of the distillation',
            'iteration',
            [Curve(name, points) for name, points in terms.items()],
            log=any(
                value > 0 for points in terms.values() for value in points.values()
            ),
        ),
    ]
    draw_panels(panels, out / CURVES, legends=True)
    run.figures['losses'] = {'own': history.losses, **history.parts}
    run.figures['curve'] = history.metrics
    return [markdown.picture(CURVES, 'Curves of the training, as they were logged.')]


def _curve(name: str, points: Mapping[int, float], **style: Any) -> Curve:
    return Curve(name, points, {'color': COLOURS[name], 'linewidth': 2, **style})


def _metric_panel(run: FinishedRun, histories: Mapping[str, History]) -> list[Panel]:
    """Return the panel of the metric; none where nothing was measured."""
    try:
        name, key = main_metric(run.plain, 'the student')
    except MkdError:
        return []
    curves = [
        _curve(
            title,
            {step: _value(found, key) for step, found in history.metrics.items()},
            marker='o',
            markersize=4,
        )
        for title, history in histories.items()
    ]
    measured = run.figures.get('metrics') or {}
    references = {
        title: found[key]
        for title, found in measured.items()
        if title.startswith('teacher') and not math.isnan(found.get(key, math.nan))
    }
    by_epoch = 'max_epochs' in (run.cfg.get('train_cfg') or {})
    unit = 'epoch' if by_epoch else 'iteration'
    return [Panel(f'{name} in validation', unit, curves, references)]


def _terms(run: FinishedRun, history: History) -> dict[str, dict[int, float]]:
    """Return the logged values of what is no loss of the student itself."""
    terms = [str(name) for name in run.cfg.model.get('terms') or {}]
    return {
        name: points
        for name, points in history.parts.items()
        if any(name == term or name.startswith(f'{term}_') for term in terms)
    }
