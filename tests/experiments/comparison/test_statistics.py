"""Intervals by hand, and the verdicts that they allow."""

from __future__ import annotations

import math

import pytest

from mkd_det.experiments.comparison.statistics import (
    bootstrap_interval,
    judge,
    paired_difference,
    spread,
    t_interval,
    verdict_rule,
)


def test_spread_by_hand() -> None:
    found = spread([1.0, 2.0, 6.0])
    assert found.mean == 3 and found.count == 3
    assert found.deviation == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert spread([4.0]).deviation is None
    assert spread([1.0, math.nan]).count == 1
    assert math.isnan(spread([math.nan]).mean)


def test_differences_are_taken_over_the_seeds_that_both_have() -> None:
    found = paired_difference({0: 1.0, 1: 2.0, 3: 9.0}, {1: 2.5, 0: 1.25, 2: 7.0})
    assert found.each == {0: 0.25, 1: 0.5}
    assert found.spread.mean == 0.375


def test_students_t_interval_by_hand() -> None:
    # Mean 2, deviation 1, t(2) = 4.3027: 2 -+ 4.3027 / sqrt(3).
    low, high = t_interval([1.0, 2.0, 3.0]) or (0, 0)
    assert low == pytest.approx(2 - 4.3027 / math.sqrt(3), rel=1e-4)
    assert high == pytest.approx(2 + 4.3027 / math.sqrt(3), rel=1e-4)
    assert t_interval([1.0]) is None
    assert t_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
    # -1 and 1, 50 times each: deviation sqrt(100 / 99), t(99) = 1.9842.
    _, high = t_interval([-1.0, 1.0] * 50) or (0, 0)
    assert high == pytest.approx(1.9842 / math.sqrt(99), rel=1e-4)


def test_the_bootstrap_of_three_values_lies_between_the_outer_two() -> None:
    # Each of the outer ones is drawn three times in 1 of 27 samples, over 2.5 %.
    assert bootstrap_interval([0.1, 0.2, 0.6]) == pytest.approx((0.1, 0.6))
    assert bootstrap_interval([1.0]) is None
    assert bootstrap_interval([0.5, 0.5]) == (0.5, 0.5)
    # Mean 0.5, standard error 0.05.
    found = bootstrap_interval([0.0, 1.0] * 50)
    assert found == pytest.approx((0.4, 0.6), abs=0.015)


@pytest.mark.parametrize(
    ('differences', 'word'),
    [
        ([0.05, 0.06, 0.055], 'helped'),
        # All above 0, as happens by chance once in eight times.
        ([0.01, 0.05, 0.12], 'cannot be told from 3 seeds'),
        ([0.05, 0.06], 'cannot be told from 2 seeds'),
        ([0.9], 'cannot be told from 1 seed'),
        ([], 'cannot be told from 0 seeds'),
        ([0.0, 0.0, 0.0], 'did not help'),
        ([-0.05, -0.06, -0.055], 'did not help'),
        # Certainly less than counts, and perhaps nothing.
        ([0.001, 0.0, -0.001, 0.0], 'did not help'),
        # Little, but certain.
        ([0.002, 0.0021, 0.0022], 'helped'),
        ([0.03, -0.03, 0.0], 'cannot be told from 3 seeds'),
    ],
)
def test_verdicts(differences: list[float], word: str) -> None:
    seeds = dict(enumerate(differences))
    difference = paired_difference(dict.fromkeys(seeds, 0.0), seeds)
    found = judge(difference, least_gain=0.005)
    assert found.word == word and found.reason
    small = word == 'helped' and max(differences) < 0.005
    assert ('less than the 0.005 that counts' in found.reason) == small


def test_the_rule_names_its_numbers() -> None:
    text = ' '.join(verdict_rule(0.005))
    assert '10000 resamples' in text and 'end below 0.005' in text
