"""What is read of a run, and what the runs of a row come to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..runs import Result, Stage, read_history
from ..runs.history import is_of_coco
from .statistics import Difference, Spread, Verdict, judge, paired, spread

SIZES = {'_s': 'small', '_m': 'medium', '_l': 'large'}
_BOX, _CLASS = 'coco/bbox_mAP', '_precision'


@dataclass(frozen=True)
class Run:
    """One training: of a row, with a seed.

    Args:
        row: The row's name.
        seed: Of the run.
        metrics: At its end, by name in the log.
        curve: What counts, by epoch or iteration.
        losses: The student's own loss in training, by iteration.
        iteration: Seconds of one, median of what was logged; None if nothing was.
        memory: MiB at most; None where it is not known.
        memory_of: 'GPU' or 'process'; '' where it is not known.
        seconds: Of the whole training, its validations included.
        command: That it was trained with.
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


def read_run(row: str, seed: int, stage: Stage, result: Result, key: str) -> Run:
    """Read a run that is done from its folder.

    Args:
        row: The row's name.
        seed: Of the run.
        stage: Of the run.
        result: Of the stage.
        key: What counts, by its name in the log.
    """
    history = read_history(stage.folder)
    memory, memory_of = history.memory or result.memory, ''
    if memory:
        memory_of = 'GPU' if history.memory else 'process'
    times = list(history.times.values())
    return Run(
        row=row,
        seed=seed,
        metrics={key: 0.0, **history.metrics[stage.epochs]},
        curve={
            step: metrics.get(key, 0.0)
            for step, metrics in history.metrics.items()
            # Without a single detection CocoMetric says nothing: that is zero.
            if key in metrics or is_of_coco(key)
        },
        losses=history.losses,
        iteration=statistics.median(times) if times else None,
        memory=memory or None,
        memory_of=memory_of,
        seconds=result.seconds,
        command=result.command,
    )


def cut_off(runs: Sequence[Run], every: Sequence[Run]) -> list[Run]:
    """Runs that have lost a part of their log, or all of it.

    Args:
        runs: Of a row: those that have fewer points than others.
        every: Of all rows: if any has logged losses, those of the row that have none.
    """
    longest = max(len(run.losses) for run in runs), max(len(run.curve) for run in runs)
    logged = any(run.losses for run in every)
    return [
        run
        for run in runs
        if (logged and not run.losses) or (len(run.losses), len(run.curve)) != longest
    ]


def parts_of(run: Run) -> dict[str, dict[str, float]]:
    """AP of a run by size and by class, as far as it was measured."""
    sizes = {
        name: run.metrics[_BOX + end]
        for end, name in SIZES.items()
        if _BOX + end in run.metrics
    }
    classes = {
        key.partition('/')[2].removesuffix(_CLASS): value
        for key, value in run.metrics.items()
        if key.startswith('coco/') and key.endswith(_CLASS)
    }
    named = {'size': sizes, 'class': classes}
    return {kind: values for kind, values in named.items() if values}


@dataclass(frozen=True)
class Outcome:
    """What the runs of a row come to.

    Args:
        name: The row's.
        source: The file that it was made from.
        config: Its complete config.
        marks: In what it differs from the base beyond how it is taught.
        params: Parameters of its student.
        runs: One a seed.
        figure: What counts.
        difference: To the base; None for the base.
        verdict: None for the base.
        iteration: Seconds of an iteration.
        extra_iteration: More than the base's.
        memory: MiB at most.
        extra_memory: More than the base's.
        parts: AP by size and by class.
    """

    name: str
    source: str
    config: str
    marks: Sequence[str]
    params: int
    runs: Sequence[Run]
    figure: Spread
    difference: Difference | None
    verdict: Verdict | None
    iteration: Spread
    extra_iteration: Spread
    memory: Spread
    extra_memory: Spread
    parts: Mapping[str, Mapping[str, Spread]]

    def entry(self) -> dict[str, Any]:
        """As it stands in the json file, where its runs stand apart."""
        return {k: v for k, v in asdict(self).items() if k != 'runs'}


def outcome(
    runs: Sequence[Run],
    base: Sequence[Run],
    key: str,
    least: float,
    **about: Any,
) -> Outcome:
    """Sum up a row.

    Args:
        runs: Of the row.
        base: Of the base.
        key: What counts, by its name in the log.
        least: The least gain that counts.
        **about: Source, config, marks and params.
    """

    def by_seed(of: Sequence[Run], name: str) -> dict[int, float]:
        found = {run.seed: getattr(run, name) for run in of}
        return {seed: value for seed, value in found.items() if value is not None}

    ours, theirs = ({run.seed: run.metrics[key] for run in of} for of in (runs, base))
    same = runs[0].row == base[0].row
    difference = None if same else paired(theirs, ours)
    cost, extra = {}, {}
    for name in ('iteration', 'memory'):
        own, other = by_seed(runs, name), by_seed(base, name)
        cost[name] = spread(list(own.values()))
        extra[name] = paired(other, own).spread
    parts: dict[str, dict[str, Spread]] = {}
    each, others = ([parts_of(run) for run in of] for of in (runs, base))
    names = dict.fromkeys(
        (k, n) for one in (*each, *others) for k in one for n in one[k]
    )
    for kind, name in names:
        # A run that has found nothing at all has 0 of each, where there is any.
        known = [one[kind].get(name, math.nan) for one in others if kind in one]
        nothing = {name: math.nan if any(map(math.isnan, known)) else 0.0}
        values = [one.get(kind, nothing).get(name, math.nan) for one in each]
        parts.setdefault(kind, {})[name] = spread(values)
    return Outcome(
        name=runs[0].row,
        runs=runs,
        figure=spread(list(ours.values())),
        difference=difference,
        verdict=None if difference is None else judge(difference, least),
        iteration=cost['iteration'],
        extra_iteration=extra['iteration'],
        memory=cost['memory'],
        extra_memory=extra['memory'],
        parts=parts,
        **about,
    )
