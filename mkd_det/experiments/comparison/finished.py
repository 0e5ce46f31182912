"""Finished trainings of a comparison, and what is measured of their students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...errors import ExperimentError
from ..runs.history import is_coco_metric
from .measuring.evaluation import Evaluation
from .measuring.image_error import ImageError, image_errors
from .measuring.image_results import ImageResults
from .measuring.students import StudentEvaluator
from .options import ComparisonOptions
from .preparation import PreparedComparison, RowSeed
from .summary import SeedResult


@dataclass(frozen=True)
class FinishedTrainings:
    """Trainings that are finished, failed, or stopped.

    Args:
        results: Results by row and seed.
        failed: Errors by title.
        stopped: Whether some trainings were stopped.
    """

    results: dict[RowSeed, SeedResult] = field(default_factory=dict)
    failed: dict[str, ExperimentError] = field(default_factory=dict)
    stopped: bool = False

    def of_row(self, prepared: PreparedComparison, row: str) -> list[SeedResult]:
        """Return the results of a row in the order of its seeds."""
        keys = [key for key in prepared.trainings if key[0] == row]
        return [self.results[key] for key in keys if key in self.results]


@dataclass(frozen=True)
class MeasuredStudents:
    """Students of finished trainings, on the data that is reported.

    Args:
        finished: The trainings; with metrics of test, if that is reported.
        split: 'val' or 'test'.
        image_errors: The error of each row that comes from the images; empty if it is
            unknown.
        notes: Why something was not measured.
    """

    finished: FinishedTrainings
    split: str = 'val'
    image_errors: Mapping[str, ImageError] = field(default_factory=dict)
    notes: Sequence[str] = ()


def measure_students(
    prepared: PreparedComparison,
    finished: FinishedTrainings,
    options: ComparisonOptions,
) -> MeasuredStudents:
    """Evaluate the students of finished trainings, each once.

    If the comparison was stopped, only what was evaluated before is used, and
    validation is reported.

    Args:
        prepared: The comparison.
        finished: Its trainings.
        options: Its settings.
    """
    split = 'test' if options.test and not finished.stopped else 'val'
    notes = []
    if options.test and split == 'val':
        notes.append('Not tested: this is done once all trainings are done.')
    if split == 'val' and not options.resamples:
        return MeasuredStudents(finished, split, notes=notes)
    try:
        found, errors = _evaluate_all(prepared, finished, split)
    except KeyboardInterrupt:
        stopped = replace(finished, stopped=True)
        return measure_students(prepared, stopped, options)
    if split == 'test':
        finished = _with_test(prepared, finished, found, errors)
    return MeasuredStudents(
        finished,
        split,
        _image_errors(finished, found, options.resamples) if options.resamples else {},
        notes,
    )


def _evaluate_all(
    prepared: PreparedComparison, finished: FinishedTrainings, split: str
) -> tuple[dict[RowSeed, Evaluation], dict[RowSeed, Exception]]:
    """Return what the students reach, and the errors of those that have none."""
    evaluator = StudentEvaluator(split, prepared.metric[1], finished.stopped)
    cfgs = {row.name: row.cfg for row in prepared.rows}
    found: dict[RowSeed, Evaluation] = {}
    errors: dict[RowSeed, Exception] = {}
    for key in finished.results:
        try:
            evaluation = evaluator(cfgs[key[0]], prepared.trainings[key])
        except Exception as error:  # of the user's own data or model, too
            errors[key] = error
            continue
        if evaluation is not None:
            found[key] = evaluation
    return found, errors


def _with_test(
    prepared: PreparedComparison,
    finished: FinishedTrainings,
    found: Mapping[RowSeed, Evaluation],
    errors: Mapping[RowSeed, Exception],
) -> FinishedTrainings:
    """Return trainings with the metrics of test; without it, one has failed."""
    key = prepared.metric[1]
    failed, results = dict(finished.failed), {}
    for row_seed, result in finished.results.items():
        title = prepared.trainings[row_seed].title
        metrics = found[row_seed].metrics if row_seed in found else {}
        if row_seed in found and is_coco_metric(key):
            metrics = {key: 0.0, **metrics}  # nothing was detected
        if key in metrics:
            results[row_seed] = replace(
                result, metrics=metrics, validation=result.metrics
            )
            continue
        error = errors.get(row_seed)
        why = f'{key} was not measured' if error is None else str(error).splitlines()[0]
        failed[title] = ExperimentError(f'{title}: it could not be tested: {why}')
    return replace(finished, results=results, failed=failed)


def _image_errors(
    finished: FinishedTrainings, found: Mapping[RowSeed, Evaluation], resamples: int
) -> dict[str, ImageError]:
    """Return the error of each row that comes from the images, if it is known."""
    rows: dict[str, list[ImageResults]] = {}
    for key in finished.results:
        images = found[key].images if key in found else None
        if images is None:
            return {}
        rows.setdefault(key[0], []).append(images)
    return image_errors(rows, resamples)
