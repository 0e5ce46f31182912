"""Runs a comparison: checks everything, trains what is missing, writes the report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

from ...errors import ExperimentError
from ...io.lock import locked_folder
from ...io.paths import check_writable_folder, relative_to_cwd
from ..runs import (
    TrainingRun,
    make_display,
    run_in_parallel,
    run_training,
)
from .caveats import find_caveats
from .finished import FinishedTrainings, MeasuredStudents, measure_students
from .judging.more_seeds import earlier_looks
from .judging.statistics import compare_with_base
from .measuring.teachers import TeacherResult, best_teacher, measure_teachers
from .options import ComparisonOptions
from .preparation import (
    PreparedComparison,
    RowSeed,
    notes_on_schedules,
    notes_on_test,
    prepare_comparison,
)
from .report.page import write_report
from .report.pictures import draw_comparison
from .report.text import DETECTIONS, JSON
from .results import Comparison
from .rows import read_rows
from .summary import read_seed_result, summarize_row


@dataclass(frozen=True)
class ComparisonOutcome:
    """What a comparison came to, finished or not.

    Args:
        comparison: All results; None while the base has none.
        report: Folder of the report.
        failed: Errors of trainings, by title.
        stopped: Whether it was stopped before its end.
    """

    comparison: Comparison | None
    report: Path
    failed: Mapping[str, ExperimentError]
    stopped: bool


def compare(
    base: str,
    rows: Sequence[str],
    work_dir: str | Path,
    options: ComparisonOptions | None = None,
    out: str | Path | None = None,
    command: str = '',
) -> ComparisonOutcome:
    """Train a student alone and in other ways, and compare the results.

    Args:
        base: `path` or `name=path` of the config of the student alone.
        rows: `path` or `name=path` of configs and recipes.
        work_dir: Folder of the comparison.
        options: Settings of the comparison.
        out: Folder of the report; default: `report` in the work dir.
        command: Command that repeats the comparison, for the report.

    Raises:
        MkdError: A row could not be trained to its end. This is checked before the
            first training; errors of trainings stand in the outcome.
    """
    options = options or ComparisonOptions()
    options.check_teacher_files()
    read = read_rows(base, rows, options)
    folder = Path(os.path.abspath(work_dir))
    out = Path(out) if out else folder / 'report'
    check_writable_folder(out, '--out')
    with locked_folder(folder, 'comparison'):
        prepared = prepare_comparison(read, options, folder)
        teachers = measure_teachers(prepared.teachers, prepared.base.cfg, folder)
        finished = _run_trainings(prepared, options)
        measured = measure_students(prepared, finished, options)
        finished = measured.finished
        if measured.split == 'test':
            tested = measure_teachers(
                prepared.teachers, prepared.base.cfg, folder, 'test'
            )
            teachers = [
                replace(test, validation=val.metrics)
                for test, val in zip(tested, teachers, strict=True)
            ]
        comparison = None
        if finished.of_row(prepared, prepared.base.name):
            comparison = _summarize(prepared, measured, options, command, teachers)
            comparison = _add_history(comparison, prepared, out)
            write_report(comparison, out)
    return ComparisonOutcome(comparison, out, finished.failed, finished.stopped)


def _run_trainings(
    prepared: PreparedComparison, options: ComparisonOptions
) -> FinishedTrainings:
    """Run what is missing."""
    finished = FinishedTrainings()
    key_of_metric = prepared.metric[1]
    with make_display(len(prepared.trainings), 'comparison') as display:

        def work(
            item: tuple[RowSeed, TrainingRun],
            environment: Mapping[str, str],
            stop: Event,
        ) -> None:
            (row, seed), training = item
            try:
                result = run_training(
                    training, environment, display, stop, options.launcher
                )
                finished.results[row, seed] = read_seed_result(
                    row, seed, training, result, key_of_metric
                )
            except ExperimentError as error:  # the others can still be compared
                display.say(f'{training.title}: failed; continues with the others')
                finished.failed[training.title] = error

        try:
            run_in_parallel(list(prepared.trainings.items()), options.devices, work)
        except KeyboardInterrupt:
            return replace(finished, stopped=True)
    return finished


def _summarize(
    prepared: PreparedComparison,
    measured: MeasuredStudents,
    options: ComparisonOptions,
    command: str,
    teachers: Sequence[TeacherResult],
) -> Comparison:
    base, (name, key) = prepared.base, prepared.metric
    finished = measured.finished
    percent = any(result.metrics[key] > 1 for result in finished.results.values())
    least_gain = options.least_gain
    if least_gain is None:
        least_gain = 0.5 if percent else 0.005
    of_rows = {row.name: finished.of_row(prepared, row.name) for row in prepared.rows}
    values = {n: [r.metrics[key] for r in of] for n, of in of_rows.items() if of}
    pooled = compare_with_base(values)
    summaries = []
    for row in prepared.rows:
        results = of_rows[row.name]
        if not results:
            continue
        students = {
            seed: (
                prepared.students[row.name, seed],
                prepared.students[base.name, seed],
            )
            for seed in options.seeds
        }
        summaries.append(
            summarize_row(
                results,
                of_rows[base.name],
                key,
                least_gain,
                difference=pooled.differences.get(row.name),
                teacher=best_teacher(teachers, row.name, key),
                source=row.source,
                config=relative_to_cwd(prepared.config_file(row)),
                caveats=find_caveats(row.cfg, base.cfg, students),
                params=prepared.students[row.name, options.seeds[0]].params,
                image_error=measured.image_errors.get(row.name),
            )
        )
    training = prepared.trainings[base.name, options.seeds[0]]
    return Comparison(
        rows=summaries,
        metric=name + (', %' if percent else ''),
        key=key,
        seeds=options.seeds,
        steps=training.budget,
        unit='epochs' if training.by_epoch else 'iterations',
        least_gain=least_gain,
        parallel=min(len(options.devices), len(prepared.trainings)),
        command=command,
        pooled=pooled,
        split=measured.split,
        resamples=options.resamples,
        notes=_notes(prepared, measured),
        teachers=teachers,
    )


def _add_history(
    comparison: Comparison, prepared: PreparedComparison, out: Path
) -> Comparison:
    """Add earlier looks at the comparison, and a picture of detections."""
    names = [row.name for row in comparison.rows]
    seeds = comparison.base.seeds
    looks = earlier_looks(out / JSON, names, comparison.key, seeds, comparison.split)
    out.mkdir(parents=True, exist_ok=True)
    drawn = draw_comparison(prepared, comparison.rows, out / DETECTIONS)
    return replace(comparison, looks=looks, detections=drawn)


def _notes(prepared: PreparedComparison, measured: MeasuredStudents) -> list[str]:
    """Describe what is odd in data and schedules, and what is not in the report."""
    notes = notes_on_test(prepared) if measured.split == 'test' else []
    notes += notes_on_schedules(prepared)
    finished = measured.finished
    for title, error in finished.failed.items():
        why = str(error).splitlines()[0].removeprefix(f'{title}: ')
        notes.append(f'{title} is not included: {why}')
    if finished.stopped:
        total = len(prepared.trainings)
        left = total - len(finished.results) - len(finished.failed)
        if left:
            text = f'Stopped early: {left} of {total} trainings are not included.'
            notes.append(text)
    return [*notes, *measured.notes]
