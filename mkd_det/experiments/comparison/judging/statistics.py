"""Statistics over a few seeds, and the verdict that they allow.

All rows are compared with the base at once, by Dunnett's test. Its spread is pooled
over all rows, so that a few seeds of each are enough, and its intervals hold for all
rows together. Pairing by seed is not used: once a student is taught in another way,
its figure varies hardly less with the base's seed known.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

# The verdict needs at least so many seeds.
LEAST_SEEDS = 3
# Chance of an error that intervals and tests allow.
LEVEL = 0.05

HELPED, DID_NOT_HELP = 'helped', 'did not help'
_RULE = (
    "Rows are compared with the base by Dunnett's test: the mean of a row minus that"
    ' of the base, with 95 % confidence intervals that hold for all rows together. If'
    ' no row has any effect, the chance that one of them is said to have helped or'
    ' harmed is 5 % in all, however many rows there are; more rows make the intervals'
    ' longer.',
    'The spread of a training over its seeds is pooled over all rows and the base. This'
    ' assumes that it is the same in all of them, and that figures are distributed'
    ' normally.',
    '"helped": at least {seeds} seeds of row and base, and the interval lies above 0.'
    ' "did not help": at least {seeds} seeds, and the interval ends below {least}, the'
    ' smallest gain that counts. "cannot be told from n seeds": everything else. More'
    ' seeds make the intervals shorter.',
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
class Difference:
    """The mean of a row minus the mean of the base.

    Args:
        mean: The difference; NaN if one of them has no values.
        interval: Its 95 % interval by Dunnett's test, which holds for all rows
            together; None where no row has a second seed.
        p_value: Chance of such a difference, or a larger one, in any of the rows if
            none has an effect; None without an interval.
        count: Number of values of the row or of the base, the smaller one.
    """

    mean: float
    interval: tuple[float, float] | None
    p_value: float | None
    count: int


@dataclass(frozen=True)
class PooledAnalysis:
    """All rows, compared with the base.

    Args:
        deviation: Standard deviation over the seeds, pooled over base and rows; None
            where nothing has a second seed.
        freedom: Its degrees of freedom.
        differences: Differences to the base, by row.
        uneven: Rows whose spread is far from that of the others (Brown-Forsythe test,
            Bonferroni-corrected), so that the pooled one does not describe them.
    """

    deviation: float | None
    freedom: int
    differences: Mapping[str, Difference]
    uneven: Sequence[str]


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


def compare_with_base(values: Mapping[str, Sequence[float]]) -> PooledAnalysis:
    """Compare all rows with the base.

    Args:
        values: Values of each row over its seeds, the base first. Ignores NaN.
    """
    known = {name: np.array(each)[~np.isnan(each)] for name, each in values.items()}
    base, *names = known
    groups = {name: group for name, group in known.items() if len(group)}
    freedom = sum(len(group) - 1 for group in groups.values())
    deviation = None
    if freedom:
        squares = sum(len(group) * np.var(group) for group in groups.values())
        # Equal values have no spread, whatever rounding their mean has.
        constant = all(np.ptp(group) == 0 for group in groups.values())
        deviation = 0.0 if constant else math.sqrt(squares / freedom)
    intervals = {}
    if base in groups and len(groups) > 1 and deviation is not None:
        intervals = _intervals(groups, deviation)
    differences = {}
    for name in names:
        row, alone = known[name], known[base]
        mean = spread(row.tolist()).mean - spread(alone.tolist()).mean
        interval, p_value = intervals.get(name, (None, None))
        count = min(len(row), len(alone))
        differences[name] = Difference(mean, interval, p_value, count)
    return PooledAnalysis(deviation, freedom, differences, _uneven(groups))


def _intervals(
    groups: Mapping[str, np.ndarray], deviation: float
) -> dict[str, tuple[tuple[float, float], float]]:
    """Return interval and p value of each row.

    Args:
        groups: Values of the base, then of each row.
        deviation: Their pooled standard deviation.
    """
    base, *rows = groups.values()
    if deviation == 0:  # every difference is exactly what it is
        means = [float(row.mean() - base.mean()) for row in rows]
        return {
            name: ((mean, mean), 0.0 if mean else 1.0)
            for name, mean in zip(list(groups)[1:], means, strict=True)
        }
    with warnings.catch_warnings():
        # A row may have equal values.
        warnings.simplefilter('ignore', RuntimeWarning)
        # Integrals over many rows are sampled: the same numbers give the same result.
        random = np.random.default_rng(0)
        found = stats.dunnett(*rows, control=base, random_state=random)
        bounds = found.confidence_interval(1 - LEVEL)
    return {
        name: ((float(low), float(high)), float(p_value))
        for name, low, high, p_value in zip(
            list(groups)[1:], bounds.low, bounds.high, found.pvalue, strict=True
        )
    }


def _uneven(values: Mapping[str, np.ndarray]) -> list[str]:
    """Return rows whose spread is far from that of all others."""
    centred = {name: group - np.median(group) for name, group in values.items()}
    found = []
    for name, group in values.items():
        rest = [c for other, c in centred.items() if other != name and len(c) > 1]
        if len(group) < LEAST_SEEDS or sum(map(len, rest)) < LEAST_SEEDS:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', RuntimeWarning)  # no spread at all
            test = stats.levene(group, np.concatenate(rest), center='median')
        if test.pvalue < LEVEL / (len(values) - 1):
            found.append(name)
    return found


def judge(difference: Difference, least_gain: float) -> Verdict:
    """Return the verdict on a row; see `verdict_rule`.

    Args:
        difference: Its difference to the base.
        least_gain: The smallest gain that counts.
    """
    count, mean = difference.count, difference.mean
    unknown = f'cannot be told from {count} seed{"" if count == 1 else "s"}'
    if difference.interval is None or count < LEAST_SEEDS:
        return Verdict(unknown, f'it takes at least {LEAST_SEEDS}')
    low, high = difference.interval
    if low > 0:
        reason = f'its interval lies above 0, from {low:+.3g} on'
        small = f'; it is less than the {least_gain:g} that counts'
        return Verdict(HELPED, reason + small * (mean < least_gain))
    if high < 0:
        reason = 'it made the student worse: its interval lies below 0'
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
    numbers = {'seeds': LEAST_SEEDS, 'least': f'{least_gain:g}'}
    return [text.format(**numbers) for text in _RULE]
