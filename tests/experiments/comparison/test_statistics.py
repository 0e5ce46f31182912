"""Intervals by hand, and the verdicts that they allow."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from mkd_det.experiments.comparison.judging.statistics import (
    Difference,
    compare_with_base,
    judge,
    spread,
    verdict_rule,
)


def test_spread_by_hand() -> None:
    found = spread([1.0, 2.0, 6.0])
    assert found.mean == 3 and found.count == 3
    assert found.deviation == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert spread([4.0]).deviation is None
    assert spread([1.0, math.nan]).count == 1
    assert math.isnan(spread([math.nan]).mean)


def test_dunnetts_interval_by_hand() -> None:
    """Critical values of Dunnett's table (1964), two-sided, 5 %."""
    # Deviations 1, 2 and 1: pooled sqrt((2 + 8 + 2) / 6); 2.86 for two rows, 6 degrees.
    values = {'alone': [1.0, 2.0, 3.0], 'a': [3.0, 5.0, 7.0], 'b': [2.0, 3.0, 4.0]}
    found = compare_with_base(values)
    assert found.deviation == pytest.approx(math.sqrt(2)) and found.freedom == 6
    a, b = found.differences.values()
    assert (a.mean, b.mean, a.count) == (3.0, 1.0, 3)
    half = 2.86 * math.sqrt(2) * math.sqrt(2 / 3)
    assert a.interval == pytest.approx((3 - half, 3 + half), abs=0.01)
    assert b.interval == pytest.approx((1 - half, 1 + half), abs=0.01)
    assert found.uneven == [] and a.p_value and 0.05 < a.p_value < 0.1
    assert compare_with_base(values) == found, 'equal numbers, equal intervals'


def test_with_a_single_row_it_is_students_t_interval() -> None:
    # Mean 3, both deviations 1, t(4) = 2.7764: 3 -+ 2.7764 * sqrt(2 / 3).
    found = compare_with_base({'alone': [1.0, 2.0, 3.0], 'a': [4.0, 5.0, 6.0]})
    half = 2.7764 * math.sqrt(2 / 3)
    expected = (3 - half, 3 + half)
    assert found.differences['a'].interval == pytest.approx(expected, rel=0.005)


def test_more_rows_make_the_intervals_longer() -> None:
    rows = {'alone': [1.0, 2.0, 3.0], 'a': [4.0, 5.0, 6.0]}
    more = rows | {f'r{i}': [1.0, 2.0, 3.0] for i in range(3)}
    widths = []
    for values in (rows, more):
        low, high = compare_with_base(values).differences['a'].interval or (0, 0)
        # In units of the quantile that a single row would have.
        freedom = 2 * len(values)
        widths.append((high - low) / stats.t.isf(0.025, freedom))
    assert widths[1] > 1.15 * widths[0]


def test_rows_may_have_different_numbers_of_seeds() -> None:
    """Those of one seed, too: the spread is that of the others. NaN is no seed."""
    values = {'alone': [1.0, 2.0, 3.0], 'a': [5.0, math.nan], 'b': [2.0, 4.0]}
    found = compare_with_base(values)
    # (1 + 0 + 1 + 1 + 1) / 3; 3.87 for two rows and 3 degrees (sizes are unequal).
    assert found.deviation == pytest.approx(math.sqrt(4 / 3)) and found.freedom == 3
    a, b = found.differences['a'], found.differences['b']
    assert (a.mean, a.count, b.mean, b.count) == (3.0, 1, 1.0, 2)
    for one, count in ((a, 1), (b, 2)):
        low, high = one.interval or (0, 0)
        half = 3.87 * math.sqrt(4 / 3) * math.sqrt(1 / 3 + 1 / count)
        assert (high - low) / 2 == pytest.approx(half, rel=0.02)


def test_without_a_second_seed_there_is_no_interval() -> None:
    found = compare_with_base({'alone': [1.0], 'a': [2.0], 'b': [math.nan]})
    assert (found.deviation, found.freedom, found.uneven) == (None, 0, [])
    assert found.differences['a'] == Difference(1.0, None, None, 1)
    b = found.differences['b']
    assert math.isnan(b.mean) and (b.interval, b.p_value, b.count) == (None, None, 0)
    alone = compare_with_base({'alone': [math.nan, math.nan], 'a': [2.0, 3.0]})
    assert alone.differences['a'].interval is None
    assert math.isnan(alone.differences['a'].mean)
    assert compare_with_base({'alone': [1.0, 2.0]}).differences == {}


def test_rows_of_equal_values_differ_by_exactly_what_they_differ() -> None:
    values = {'alone': [0.1] * 3, 'a': [0.1] * 3, 'b': [0.25] * 3}
    found = compare_with_base(values)
    assert found.deviation == 0 and found.uneven == []
    assert found.differences['a'] == Difference(0.0, (0.0, 0.0), 1.0, 3)
    b = found.differences['b']
    assert b.mean == pytest.approx(0.15) and b.p_value == 0
    assert b.interval == pytest.approx((b.mean, b.mean))
    # One row without spread is one whose spread is pooled with the others'.
    mixed = compare_with_base({'alone': [1.0, 2.0, 3.0], 'a': [2.0] * 3})
    assert mixed.deviation == pytest.approx(math.sqrt(0.5))


def test_a_row_with_a_spread_of_its_own_is_named() -> None:
    near = {name: [1.0, 1.1, 1.2, 1.3, 1.4] for name in ('alone', 'a', 'b')}
    assert compare_with_base(near).uneven == []
    found = compare_with_base(near | {'wild': [-20.0, -9.0, 1.0, 11.0, 19.0]})
    assert found.uneven == ['wild']


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
    values = {'alone': [0.0] * len(differences), 'row': differences}
    difference = compare_with_base(values).differences['row']
    found = judge(difference, least_gain=0.005)
    assert found.word == word and found.reason
    small = word == 'helped' and max(differences) < 0.005
    assert ('less than the 0.005 that counts' in found.reason) == small


def test_the_rule_names_its_numbers() -> None:
    text = ' '.join(verdict_rule(0.005))
    assert 'at least 3 seeds' in text and 'ends below 0.005' in text
    assert 'assumes that it is the same in all of them' in text
