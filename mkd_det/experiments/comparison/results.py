"""All results of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .judging.statistics import PooledAnalysis
from .measuring.teachers import TeacherResult
from .summary import RowSummary


@dataclass(frozen=True)
class Comparison:
    """All results of a comparison.

    Args:
        rows: Summaries of the rows, the base first.
        metric: Name of the metric that counts.
        key: Its key in the log.
        seeds: Seeds of all rows.
        steps: Budget of the base.
        unit: Unit of the budget: 'epochs' or 'iterations'.
        least_gain: The smallest gain that counts.
        parallel: Number of trainings that ran at a time.
        command: Command that repeats the comparison.
        pooled: Spread over all rows and seeds, and the differences of the rows.
        split: Data that figures and verdicts are of, 'val' or 'test'.
        resamples: Samples of images that their error is from.
        notes: Notes on all rows.
        teachers: The teachers of the rows, and what they reach.
        looks: Seeds of earlier reports of this comparison.
        detections: Whether there is a picture of detections.
    """

    rows: Sequence[RowSummary]
    metric: str
    key: str
    seeds: Sequence[int]
    steps: int
    unit: str
    least_gain: float
    parallel: int
    command: str
    pooled: PooledAnalysis
    split: str = 'val'
    resamples: int = 0
    notes: Sequence[str] = ()
    teachers: Sequence[TeacherResult] = ()
    looks: Sequence[Sequence[int]] = ()
    detections: bool = False

    @property
    def base(self) -> RowSummary:
        """The row of the student alone."""
        return self.rows[0]

    @property
    def digits(self) -> int:
        """Decimals of the metric: fewer if it is in percent."""
        return 2 if self.base.metric.mean > 1 else 3

    def entry(self) -> dict[str, Any]:
        """Return all numbers as a dict for a json file: rows, and every training."""
        whole = {k: v for k, v in vars(self).items() if k != 'rows'}
        pooled = asdict(self.pooled)
        del pooled['differences']  # they are in the rows
        whole['pooled'] = pooled
        whole['teachers'] = [asdict(teacher) for teacher in self.teachers]
        runs = [asdict(result) for row in self.rows for result in row.results]
        return {**whole, 'rows': [row.entry() for row in self.rows], 'runs': runs}
