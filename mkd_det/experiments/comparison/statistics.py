"""What can be said of a recipe after a few seeds: plain numbers, and plain words.

Each row is compared with the base seed by seed: both begin with the same student and
see the same images in the same order, so what differs between them differs less than
either does between seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

# Fewer seeds say nothing about how much they differ.
LEAST_SEEDS = 3
RESAMPLES = 10_000

HELPED, DID_NOT = 'helped', 'did not help'
RULE = (
    'A row is judged by its differences to the base, seed by seed, and by two 95 %'
    ' intervals for their mean: the percentile bootstrap ({resamples} resamples), and'
    " Student's t. The bootstrap alone would be too sure: from three seeds it can do no"
    ' more than lie between the smallest and the largest difference, and three of three'
    ' are above 0 by chance once in eight times.',
    '"helped": at least {seeds} seeds, and both intervals lie above 0. "did not help":'
    ' at least {seeds} seeds, and both intervals end below {least}: a gain of that'
    ' size, the least that is taken to count, is ruled out. "cannot be told from n'
    ' seeds": all else. More seeds make the intervals shorter.',
    'Each row is judged by itself: of forty rows that do nothing, one will be said to'
    ' have helped.',
)


@dataclass(frozen=True)
class Spread:
    """Of one figure over the seeds.

    Args:
        mean: Of all.
        deviation: Of the sample; None for a single one.
        count: How many there are.
    """

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """A row minus the base, over the seeds that both have.

    Args:
        each: By seed.
        spread: Of them.
        bootstrap: Interval of the mean; None for a single seed.
        student: The same by Student's t.
    """

    each: Mapping[int, float]
    spread: Spread
    bootstrap: tuple[float, float] | None
    student: tuple[float, float] | None


@dataclass(frozen=True)
class Verdict:
    """Whether a row has helped.

    Args:
        word: 'helped', 'did not help' or 'cannot be told from n seeds'.
        reason: A sentence's rest.
    """

    word: str
    reason: str


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation; NaN is left out, and is what is left of
    nothing."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Spread(math.nan, None, 0)
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Spread(statistics.mean(known), deviation, len(known))


def paired(base: Mapping[int, float], row: Mapping[int, float]) -> Difference:
    """The difference between two rows.

    Args:
        base: Figures by seed.
        row: The same of the other one.
    """
    each = {seed: row[seed] - base[seed] for seed in sorted(set(base) & set(row))}
    each = {seed: value for seed, value in each.items() if not math.isnan(value)}
    values = list(each.values())
    return Difference(each, spread(values), bootstrap(values), student(values))


def bootstrap(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    draw = np.random.default_rng(seed)
    picked = draw.choice(np.asarray(values), (RESAMPLES, len(values)))
    low, high = np.percentile(picked.mean(1), [2.5, 97.5])
    return float(low), float(high)


def student(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t; None for fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    factor = float(t.ppf(0.975, count - 1))
    half = factor * statistics.stdev(values) / math.sqrt(count)
    mean = statistics.mean(values)
    return mean - half, mean + half


def judge(difference: Difference, least: float) -> Verdict:
    """Whether a row has helped; see `RULE`.

    Args:
        difference: To the base.
        least: The least gain that counts.
    """
    count, mean = difference.spread.count, difference.spread.mean
    unknown = f'cannot be told from {count} seed{"" if count == 1 else "s"}'
    if not difference.bootstrap or not difference.student or count < LEAST_SEEDS:
        return Verdict(unknown, f'it takes at least {LEAST_SEEDS}')
    low = min(difference.bootstrap[0], difference.student[0])
    high = max(difference.bootstrap[1], difference.student[1])
    if low > 0:
        sure = f'both intervals lie above 0, from {low:+.3g} on'
        little = f'; it is less than the {least:g} that counts'
        return Verdict(HELPED, sure + little * (mean < least))
    if high < 0:
        return Verdict(DID_NOT, 'it made the student worse: both intervals lie below 0')
    if high < least or high <= 0:
        return Verdict(DID_NOT, f'a gain of {least:g} is ruled out')
    gain = 'gain' if mean >= 0 else 'loss'
    return Verdict(
        unknown,
        f'the {gain} of {abs(mean):.3g} is within what seeds alone may do'
        f' (from {low:+.3g} to {high:+.3g})',
    )


def rule(least: float) -> list[str]:
    """`RULE`, with its numbers."""
    numbers = {'resamples': RESAMPLES, 'seeds': LEAST_SEEDS, 'least': f'{least:g}'}
    return [text.format(**numbers) for text in RULE]
