"""Statistics over a few seeds, and the verdict that they allow.

Each row is compared with the base seed by seed: both begin with the same student and
see the same images in the same order, so that their difference varies less than the
metric of either does between seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

# The verdict needs at least so many seeds.
LEAST_SEEDS = 3
RESAMPLES = 10_000

HELPED, DID_NOT_HELP = 'helped', 'did not help'
_RULE = (
    'A row is judged by its differences to the base, seed by seed, and by two 95 %'
    ' confidence intervals for their mean: the percentile bootstrap ({resamples}'
    " resamples), and Student's t. The bootstrap alone would be too confident: with"
    ' three seeds its interval lies between the smallest and the largest difference,'
    ' and all three are above 0 by chance once in eight times.',
    '"helped": at least {seeds} seeds, and both intervals lie above 0. "did not help":'
    ' at least {seeds} seeds, and both intervals end below {least}, the smallest gain'
    ' that counts. "cannot be told from n seeds": everything else. More seeds make the'
    ' intervals shorter.',
    'Each row is judged by itself: of forty rows without any effect, about one will be'
    ' said to have helped.',
)


@dataclass(frozen=True)
class Spread:
    """Mean and spread of a value over the seeds.

    Args:
        mean: The mean; NaN without values.
        deviation: Standard deviation of the sample; None for fewer than two values.
        count: Number of values.
    """

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class PairedDifference:
    """A row minus the base, over the seeds that both have.

    Args:
        each: The differences by seed.
        spread: Their mean and spread.
        bootstrap: Percentile bootstrap interval of the mean; None for a single seed.
        student_t: Interval of the mean by Student's t; None for a single seed.
    """

    each: Mapping[int, float]
    spread: Spread
    bootstrap: tuple[float, float] | None
    student_t: tuple[float, float] | None


@dataclass(frozen=True)
class Verdict:
    """Whether a row has helped.

    Args:
        word: 'helped', 'did not help' or 'cannot be told from n seeds'.
        reason: The reason, as a part of a sentence.
    """

    word: str
    reason: str


def spread(values: Sequence[float]) -> Spread:
    """Return mean and sample standard deviation. Ignores NaN."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Spread(math.nan, None, 0)
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Spread(statistics.mean(known), deviation, len(known))


def paired_difference(
    base: Mapping[int, float], row: Mapping[int, float]
) -> PairedDifference:
    """Return the difference of a row to the base.

    Args:
        base: Values of the base, by seed.
        row: Values of the row, by seed.
    """
    each = {seed: row[seed] - base[seed] for seed in sorted(set(base) & set(row))}
    each = {seed: value for seed, value in each.items() if not math.isnan(value)}
    values = list(each.values())
    return PairedDifference(
        each, spread(values), bootstrap_interval(values), t_interval(values)
    )


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % percentile bootstrap interval of the mean.

    Returns:
        The bounds; None for fewer than two values. Equal values give equal bounds.
    """
    if len(values) < 2:
        return None
    result = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=0.95,
        method='percentile',
        random_state=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return float(low), float(high)


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean by Student's t.

    Returns:
        The bounds; None for fewer than two values.
    """
    if len(values) < 2:
        return None
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean - half, mean + half


def judge(difference: PairedDifference, least_gain: float) -> Verdict:
    """Return the verdict on a row; see `verdict_rule`.

    Args:
        difference: Its difference to the base.
        least_gain: The smallest gain that counts.
    """
    count, mean = difference.spread.count, difference.spread.mean
    unknown = f'cannot be told from {count} seed{"" if count == 1 else "s"}'
    if not difference.bootstrap or not difference.student_t or count < LEAST_SEEDS:
        return Verdict(unknown, f'it takes at least {LEAST_SEEDS}')
    low = min(difference.bootstrap[0], difference.student_t[0])
    high = max(difference.bootstrap[1], difference.student_t[1])
    if low > 0:
        reason = f'both intervals lie above 0, from {low:+.3g} on'
        small = f'; it is less than the {least_gain:g} that counts'
        return Verdict(HELPED, reason + small * (mean < least_gain))
    if high < 0:
        reason = 'it made the student worse: both intervals lie below 0'
        return Verdict(DID_NOT_HELP, reason)
    if high < least_gain or high <= 0:
        return Verdict(DID_NOT_HELP, f'a gain of {least_gain:g} is ruled out')
    gain = 'gain' if mean >= 0 else 'loss'
    return Verdict(
        unknown,
        f'the {gain} of {abs(mean):.3g} may come from the seeds alone'
        f' (interval from {low:+.3g} to {high:+.3g})',
    )


def verdict_rule(least_gain: float) -> list[str]:
    """Describe how `judge` decides, in paragraphs."""
    numbers = {
        'resamples': RESAMPLES,
        'seeds': LEAST_SEEDS,
        'least': f'{least_gain:g}',
    }
    return [text.format(**numbers) for text in _RULE]
