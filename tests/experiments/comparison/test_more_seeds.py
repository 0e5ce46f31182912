"""More seeds: how many, with which command, and how often somebody has looked."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mkd_det.experiments.comparison.judging.more_seeds import (
    MOST_SEEDS,
    earlier_looks,
    extend_seeds,
    seeds_needed,
    with_seeds,
)
from mkd_det.experiments.comparison.judging.statistics import (
    Difference,
    compare_with_base,
    judge,
)


def difference(mean: float, count: int = 3) -> Difference:
    return Difference(mean, (-1.0, 1.0), 0.5, count)


def test_the_number_of_seeds_by_hand() -> None:
    # Gain 0.06, deviation 0.04: t(8) 2.306 * 0.04 * sqrt(2 / 5) = 0.0583 < 0.06, while
    # t(6) 2.447 * 0.04 * sqrt(2 / 4) = 0.0692 is not.
    assert seeds_needed(difference(0.06), 0.04, 1, 0.005) == 5
    # As if the spread stays: then the verdict comes.
    spread = [0.04 * x / math.sqrt(1.6 / 4) for x in (-0.8, -0.4, 0, 0.4, 0.8)]
    values = {'alone': spread, 'row': [0.06 + x for x in spread]}
    found = compare_with_base(values)
    assert found.deviation == pytest.approx(0.04)
    assert judge(found.differences['row'], 0.005).word == 'helped'
    # For five rows it takes more: 2.738 * 0.04 * sqrt(2 / 6) = 0.0632 at t(30).
    assert seeds_needed(difference(0.06), 0.04, 5, 0.005) == 7


def test_one_seed_asks_for_the_least_and_no_effect_for_the_most() -> None:
    assert seeds_needed(difference(0.1, 1), None, 1, 0.005) == 3
    assert seeds_needed(difference(math.nan, 0), 0.03, 1, 0.005) == 3
    assert seeds_needed(difference(0.0), 0.03, 1, 0.005) == MOST_SEEDS


def test_the_command_has_other_seeds_and_is_else_the_same() -> None:
    command = "mkd-det compare 'a b=c.py' --seeds 0 1 2 --base x.py --epochs 2"
    assert with_seeds(command, [0, 1, 2, 3]) == (
        "mkd-det compare 'a b=c.py' --base x.py --epochs 2 --seeds 0 1 2 3"
    )
    assert with_seeds('mkd-det compare a.py', [4]) == 'mkd-det compare a.py --seeds 4'


def test_seeds_are_added_to_those_that_are_there() -> None:
    assert extend_seeds([0, 1, 2], 5) == [0, 1, 2, 3, 4]
    assert extend_seeds([7, 1], 4) == [7, 1, 0, 2]
    assert extend_seeds([0, 1, 2], 2) == [0, 1, 2]


def test_looks_with_fewer_seeds_are_remembered(tmp_path: Path) -> None:
    file = tmp_path / 'report.json'
    rows = ['alone', 'soft']
    assert earlier_looks(file, rows, 'mAP', [0, 1, 2]) == []
    before = dict(key='mAP', seeds=[0, 1, 2], rows=[dict(name=name) for name in rows])
    file.write_text(json.dumps(before))
    assert earlier_looks(file, rows, 'mAP', [0, 1, 2]) == [], 'only written again'
    assert earlier_looks(file, rows, 'mAP', [0, 1, 2, 3]) == [[0, 1, 2]]
    file.write_text(json.dumps(dict(before, seeds=[0, 1, 2, 3], looks=[[0, 1, 2]])))
    looks = [[0, 1, 2], [0, 1, 2, 3]]
    assert earlier_looks(file, rows, 'mAP', [0, 1, 2, 3, 4]) == looks
    assert earlier_looks(file, ['alone', 'other'], 'mAP', range(5)) == []
    assert earlier_looks(file, rows, 'other', range(5)) == []
