"""Results of single trainings, and what the trainings of a row amount to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..runs import TrainingResult, TrainingRun, read_history
from ..runs.history import is_coco_metric
from .judging.statistics import Difference, Spread, Verdict, judge, spread
from .measuring.image_error import ImageError

SIZES = {'_s': 'small', '_m': 'medium', '_l': 'large'}
_BOX, _CLASS = 'coco/bbox_mAP', '_precision'
# End of the key of a box mAP over several IoUs.
_BOX_NAME = '/bbox_mAP'


@dataclass(frozen=True)
class SeedResult:
    """Result of one training: one row, one seed.

    Args:
        row: Name of the row.
        seed: The seed.
        metrics: Metrics at its end, by key in the log.
        curve: The metric that counts, by epoch or iteration.
        losses: The student's own loss in training, by iteration.
        iteration: Median seconds per iteration; None if nothing was logged.
        memory: Peak memory in MiB; None where it is unknown.
        memory_of: 'GPU' or 'process'; '' where it is unknown.
        seconds: Wall-clock time of the training, validations included.
        command: The command that was run.
        validation: Metrics on the validation data, where `metrics` are those of test.
    """

    row: str
    seed: int
    metrics: Mapping[str, float]
    curve: Mapping[int, float]
    losses: Mapping[int, float]
    iteration: float | None
    memory: float | None
    memory_of: str
    seconds: float
    command: str
    validation: Mapping[str, float] = field(default_factory=dict)


def read_seed_result(
    row: str, seed: int, run: TrainingRun, result: TrainingResult, key: str
) -> SeedResult:
    """Read a finished training from its folder.

    Args:
        row: Name of the row.
        seed: The seed.
        run: The training.
        result: Its result.
        key: Key of the metric that counts.
    """
    history = read_history(run.folder)
    memory, memory_of = history.memory or result.memory, ''
    if memory:
        memory_of = 'GPU' if history.memory else 'process'
    times = list(history.times.values())
    return SeedResult(
        row=row,
        seed=seed,
        metrics={key: 0.0, **history.metrics[run.budget]},
        curve={
            step: metrics.get(key, 0.0)
            for step, metrics in history.metrics.items()
            # CocoMetric logs nothing when nothing was detected, which counts as 0.
            if key in metrics or is_coco_metric(key)
        },
        losses=history.losses,
        iteration=statistics.median(times) if times else None,
        memory=memory or None,
        memory_of=memory_of,
        seconds=result.seconds,
        command=result.command,
    )


def with_incomplete_log(
    of_row: Sequence[SeedResult], of_all: Sequence[SeedResult]
) -> list[SeedResult]:
    """Return the results of a row whose log lost a part, or everything.

    Args:
        of_row: Results of the row. Those with fewer points than others are incomplete.
        of_all: Results of all rows. If any has losses, those without are incomplete.
    """
    complete = (
        max(len(result.losses) for result in of_row),
        max(len(result.curve) for result in of_row),
    )
    logged = any(result.losses for result in of_all)
    return [
        result
        for result in of_row
        if (logged and not result.losses)
        or (len(result.losses), len(result.curve)) != complete
    ]


def ap_by_part(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return AP by size and by class, as far as it was measured.

    Args:
        metrics: Metrics by key in the log.
    """
    sizes = {
        name: metrics[_BOX + suffix]
        for suffix, name in SIZES.items()
        if _BOX + suffix in metrics
    }
    classes = {
        key.partition('/')[2].removesuffix(_CLASS): value
        for key, value in metrics.items()
        if key.startswith('coco/') and key.endswith(_CLASS)
    }
    parts = {'size': sizes, 'class': classes}
    return {kind: values for kind, values in parts.items() if values}


@dataclass(frozen=True)
class RowSummary:
    """Summary of a row over its seeds.

    Args:
        name: Name of the row.
        source: The file that it was made from.
        config: Its complete config.
        caveats: Differences from the base beyond how the student is taught.
        params: Number of parameters of its student.
        results: One result for each seed.
        metric: The metric that counts.
        difference: Difference to the base; None for the base.
        verdict: None for the base.
        iteration: Seconds per iteration.
        extra_iteration: Seconds per iteration beyond the base's.
        memory: Peak memory in MiB.
        extra_memory: Peak memory beyond the base's.
        parts: AP by size and by class.
        metric_50: The mAP at an IoU of 0.5; without values if not measured.
        teacher: The metric of its teacher, the best of several; None if unknown.
        gap_closed: Its part of the way from the base to the teacher; None if the
            teacher is no better than the base.
        validation: The metric on the validation data, where `metric` is that of test.
        image_error: Its error that comes from the images; None if unknown.
    """

    name: str
    source: str
    config: str
    caveats: Sequence[str]
    params: int
    results: Sequence[SeedResult]
    metric: Spread
    difference: Difference | None
    verdict: Verdict | None
    iteration: Spread
    extra_iteration: Spread
    memory: Spread
    extra_memory: Spread
    parts: Mapping[str, Mapping[str, Spread]]
    metric_50: Spread = field(default_factory=lambda: spread([]))
    teacher: float | None = None
    gap_closed: float | None = None
    validation: Spread = field(default_factory=lambda: spread([]))
    image_error: ImageError | None = None

    @property
    def seeds(self) -> list[int]:
        """Seeds of its results."""
        return [result.seed for result in self.results]

    def entry(self) -> dict[str, Any]:
        """Return the summary as a dict for a json file, without `results`."""
        return {k: v for k, v in asdict(self).items() if k != 'results'}


def summarize_row(
    of_row: Sequence[SeedResult],
    of_base: Sequence[SeedResult],
    key: str,
    least_gain: float,
    difference: Difference | None = None,
    teacher: float | None = None,
    **about: Any,
) -> RowSummary:
    """Summarize a row.

    Args:
        of_row: Results of the row.
        of_base: Results of the base.
        key: Key of the metric that counts.
        least_gain: The smallest gain that counts.
        difference: The difference of the row to the base; None for the base.
        teacher: The metric of its teacher, if it was measured.
        **about: `source`, `config`, `caveats`, `params` and `image_error` of the
            summary.
    """
    base = spread([result.metrics[key] for result in of_base])
    iteration, extra_iteration = _cost(of_row, of_base, 'iteration')
    memory, extra_memory = _cost(of_row, of_base, 'memory')
    return RowSummary(
        name=of_row[0].row,
        results=of_row,
        metric=spread([result.metrics[key] for result in of_row]),
        difference=difference,
        verdict=None if difference is None else judge(difference, least_gain),
        iteration=iteration,
        extra_iteration=extra_iteration,
        memory=memory,
        extra_memory=extra_memory,
        parts=_parts(of_row, of_base),
        metric_50=spread([r.metrics.get(f'{key}_50', math.nan) for r in of_row])
        if key.endswith(_BOX_NAME)
        else spread([]),
        teacher=teacher,
        validation=spread([r.validation[key] for r in of_row if r.validation]),
        gap_closed=_gap_closed(base.mean, difference, teacher, least_gain),
        **about,
    )


def _gap_closed(
    base: float,
    difference: Difference | None,
    teacher: float | None,
    least_gain: float,
) -> float | None:
    """Return the part of the gap between base and teacher that a row has closed.

    Args:
        base: Mean of the base.
        difference: The difference of the row to the base.
        teacher: Value of the teacher.
        least_gain: The smallest gain that counts: a smaller gap is none.
    """
    if difference is None or teacher is None or not difference.count:
        return None
    gap = teacher - base
    return difference.mean / gap if gap >= least_gain else None


def _cost(
    of_row: Sequence[SeedResult], of_base: Sequence[SeedResult], name: str
) -> tuple[Spread, Spread]:
    """Return a cost of the row, and by how much it exceeds the base's, by seed."""
    ours, theirs = (
        {
            result.seed: value
            for result in results
            if (value := getattr(result, name)) is not None
        }
        for results in (of_row, of_base)
    )
    extra = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    return spread(list(ours.values())), spread(extra)


def _parts(
    of_row: Sequence[SeedResult], of_base: Sequence[SeedResult]
) -> dict[str, dict[str, Spread]]:
    """Return AP of the row by size and by class."""
    parts: dict[str, dict[str, Spread]] = {}
    ours, theirs = (
        [ap_by_part(result.metrics) for result in results]
        for results in (of_row, of_base)
    )
    names = dict.fromkeys(
        (kind, name) for one in (*ours, *theirs) for kind in one for name in one[kind]
    )
    for kind, name in names:
        # A training that detects nothing logs nothing: its AP is 0 wherever the data
        # has such objects, which the results of the base tell.
        known = [one[kind].get(name, math.nan) for one in theirs if kind in one]
        missing = {name: math.nan if any(map(math.isnan, known)) else 0.0}
        values = [one.get(kind, missing).get(name, math.nan) for one in ours]
        parts.setdefault(kind, {})[name] = spread(values)
    return parts
