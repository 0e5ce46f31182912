"""How many seeds a verdict needs, and how often a comparison was looked at."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from ....io.json_files import read_json
from .statistics import LEAST_SEEDS, LEVEL, Difference

# Most seeds that are suggested.
MOST_SEEDS = 20


def seeds_needed(
    difference: Difference, deviation: float | None, rows: int, least_gain: float
) -> int:
    """Return about how many seeds a verdict takes, if the means stay as they are.

    That is the smallest number whose interval would lie above 0, or end below the
    smallest gain that counts. The interval is Bonferroni's, which is hardly longer than
    Dunnett's.

    Args:
        difference: The difference of a row to the base so far.
        deviation: The pooled standard deviation.
        rows: Number of rows beside the base.
        least_gain: The smallest gain that counts.

    Returns:
        The number; `MOST_SEEDS` if it would take more.
    """
    count, mean = difference.count, difference.mean
    if deviation is None or math.isnan(mean):
        return LEAST_SEEDS
    for number in range(max(count + 1, LEAST_SEEDS), MOST_SEEDS):
        freedom = (rows + 1) * (number - 1)
        quantile = float(stats.t.isf(LEVEL / (2 * rows), freedom))
        half = quantile * deviation * math.sqrt(2 / number)
        if mean - half > 0 or mean + half < least_gain:
            return number
    return MOST_SEEDS


def with_seeds(command: str, seeds: Sequence[int]) -> str:
    """Return a command line of `mkd-det compare` with other seeds.

    Args:
        command: The command line.
        seeds: The seeds.
    """
    words = shlex.split(command)
    kept = []
    skipping = False
    for word in words:
        skipping = word == '--seeds' or (skipping and word.isdigit())
        if not skipping:
            kept.append(word)
    return shlex.join([*kept, '--seeds', *map(str, seeds)])


def extend_seeds(seeds: Sequence[int], count: int) -> list[int]:
    """Return the seeds, and the smallest unused numbers up to a count of seeds."""
    new = (seed for seed in range(count + len(seeds)) if seed not in seeds)
    extra = [next(new) for _ in range(max(count - len(seeds), 0))]
    return [*seeds, *extra]


def earlier_looks(
    report: Path,
    rows: Sequence[str],
    key: str,
    seeds: Sequence[int],
    split: str = 'val',
) -> list[list[int]]:
    """Return the seeds of earlier reports of this comparison, the first one first.

    Args:
        report: The json file of the report before this one.
        rows: Names of the rows.
        key: Key of the metric that counts.
        seeds: Seeds of this report.
        split: Data that it is of.
    """
    before: Any = read_json(report)
    if not isinstance(before, Mapping) or before.get('key') != key:
        return []
    if before.get('split', 'val') != split:
        return []
    names = [row.get('name') for row in before.get('rows', ())]
    seen = [*before.get('looks', ()), before.get('seeds') or []]
    looks = [list(look) for look in seen if set(look) < set(seeds)]
    return looks if set(names) & set(rows[1:]) else []
