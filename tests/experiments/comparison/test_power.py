"""Power analysis against published tables."""

from __future__ import annotations

import math

import pytest

from mkd_det.experiments.comparison.judging.power import (
    find_probability,
    gain_found_by,
    seeds_for_gain,
)


@pytest.mark.parametrize(
    ('effect', 'number'), [(0.2, 394), (0.5, 64), (0.8, 26), (1.0, 17), (1.2, 12)]
)
def test_the_number_of_seeds_is_that_of_cohens_table(
    effect: float, number: int
) -> None:
    """Statistical Power Analysis (1988), table 2.4.1: two-sided 5 %, power 0.8."""
    assert seeds_for_gain(0.02 * effect, 0.02, 1) == pytest.approx(number, abs=1)
    assert find_probability(effect, 1.0, number, 1) == pytest.approx(0.8, abs=0.03)


def test_more_rows_take_more_seeds() -> None:
    numbers = [seeds_for_gain(0.01, 0.01, rows) or 0 for rows in (1, 2, 5, 20)]
    assert numbers == sorted(set(numbers)) and numbers[0] == 17


def test_the_gain_that_seeds_find_is_the_reverse() -> None:
    # 64 seeds find half a deviation.
    assert gain_found_by(64, 0.02, 1) == pytest.approx(0.01, rel=0.005)
    found = gain_found_by(3, 0.01, 2)
    assert found is not None
    assert find_probability(found, 0.01, 3, 2) == pytest.approx(0.8)
    assert gain_found_by(1, 0.01, 1) is None
    assert gain_found_by(3, math.nan, 1) is None


def test_extreme_spreads() -> None:
    assert seeds_for_gain(0.01, 0.0, 3) == 2 and gain_found_by(3, 0.0, 3) == 0
    assert seeds_for_gain(0.0, 0.01, 3) is None
    assert seeds_for_gain(1e-6, 1.0, 3) is None, 'more than are looked for'
    assert seeds_for_gain(1e6, 1.0, 3) == 2
