"""Power analysis: how many seeds it takes to find a gain, by t tests."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, stats

from .statistics import LEVEL

# Chance that a gain is found, if it is there.
POWER = 0.8
# Larger numbers of seeds are not looked for.
MOST = 1000


def find_probability(
    gain: float, deviation: float, seeds: int | np.ndarray, rows: int
) -> np.ndarray:
    """Return the chance that a row's gain is found.

    The test is Student's, with a spread pooled over base and rows and with Bonferroni's
    correction for the number of rows. Dunnett's is a little better: it knows that all
    rows are compared with the same base.

    Args:
        gain: The true difference to the base, above 0.
        deviation: Standard deviation over the seeds, above 0.
        seeds: Seeds of each row and of the base, at least 2.
        rows: Number of rows beside the base.
    """
    seeds = np.asarray(seeds)
    freedom = (rows + 1) * (seeds - 1)
    limit = stats.t.isf(LEVEL / (2 * rows), freedom)
    shift = gain / (deviation * np.sqrt(2 / seeds))
    below, above = (stats.nct.cdf(sign * limit, freedom, shift) for sign in (-1, 1))
    # Far from the limit scipy yields NaN, where the gain cannot be missed.
    return np.where(np.isfinite(above), np.nan_to_num(below) + 1 - above, 1.0)


def seeds_for_gain(gain: float, deviation: float, rows: int) -> int | None:
    """Return how many seeds it takes to find a gain with a chance of `POWER`.

    Args:
        gain: The true difference to the base.
        deviation: Standard deviation over the seeds.
        rows: Number of rows beside the base.

    Returns:
        The number, at least 2; None if it is above `MOST`.
    """
    if deviation == 0:
        return 2
    if gain <= 0:
        return None
    numbers = np.arange(2, MOST + 1)
    enough = find_probability(gain, deviation, numbers, rows) >= POWER
    return int(numbers[enough.argmax()]) if enough.any() else None


def gain_found_by(seeds: int, deviation: float, rows: int) -> float | None:
    """Return the smallest gain that some seeds find with a chance of `POWER`.

    Args:
        seeds: Seeds of each row and of the base.
        deviation: Standard deviation over the seeds.
        rows: Number of rows beside the base.

    Returns:
        The gain; None for a single seed.
    """
    if seeds < 2 or math.isnan(deviation):
        return None
    if deviation == 0:
        return 0.0

    def lacking(gain: float) -> float:
        return float(find_probability(gain, deviation, seeds, rows)) - POWER

    most = deviation
    while lacking(most) < 0:
        most *= 2
    return float(optimize.brentq(lacking, 1e-9 * deviation, most))
