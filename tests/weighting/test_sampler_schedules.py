"""Which teachers take part in a step, and how much a term weighs by then."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mmengine.logging import MessageHub

from mkd_det.config import SamplingConfig
from mkd_det.errors import ConfigError
from mkd_det.parsing import parse
from mkd_det.weighting.sampler import TeacherSampler
from mkd_det.weighting.schedules import Progress, WeightSchedule

NAMES = ('ta1', 'ta2', 'ta3', 't')


def sampler(names: Sequence[str] = NAMES, **settings: Any) -> TeacherSampler:
    return TeacherSampler(names, parse(SamplingConfig, settings, 'sampling'))


# -- sampling --------------------------------------------------------------------


def test_without_sampling_all_teachers_take_part() -> None:
    assert sampler().pick(7) == set(NAMES)
    assert sampler(()).pick(0) == set()


@given(
    seed=st.integers(0, 99),
    keep=st.floats(0.01, 1.0),
    iteration=st.integers(0, 10**6),
    count=st.integers(1, 4),
)
def test_a_pick_depends_on_seed_and_iteration_alone_and_is_never_empty(
    seed: int, keep: float, iteration: int, count: int
) -> None:
    names = NAMES[:count]
    one = sampler(names, keep_prob=keep, seed=seed)
    picked = one.pick(iteration)
    assert picked and picked <= set(names)
    # Another rank, after other draws: the same.
    random.seed(iteration)
    one.pick(iteration + 1)
    assert sampler(names, keep_prob=keep, seed=seed).pick(iteration) == picked


def test_picking_draws_nothing_from_the_common_generator() -> None:
    random.seed(3)
    expected = random.random()
    random.seed(3)
    sampler(keep_prob=0.5).pick(0)
    assert random.random() == expected


def test_picks_are_equal_in_every_process() -> None:
    """Python hashes strings differently in each process: no pick may depend on it."""
    one = sampler(keep_prob=0.5, seed=1)
    assert [one.pick(i) for i in range(5)] == [
        {'t', 'ta2', 'ta3'},
        {'ta1'},
        {'t', 'ta1'},
        {'ta1', 'ta2'},
        {'ta2', 'ta3'},
    ]


def test_each_teacher_is_kept_with_the_probability() -> None:
    one = sampler(keep_prob=0.75)
    counts = Counter(name for i in range(4000) for name in one.pick(i))
    for name in NAMES:
        assert abs(counts[name] / 4000 - 0.75) < 0.03


@pytest.mark.parametrize('drop', [1, 2, 3])
def test_exactly_so_many_are_dropped_and_all_alike(drop: int) -> None:
    one = sampler(drop_exact=drop)
    picks = [one.pick(i) for i in range(2000)]
    assert {len(p) for p in picks} == {4 - drop}
    counts = Counter(name for p in picks for name in p)
    for name in NAMES:
        assert abs(counts[name] / 2000 - (4 - drop) / 4) < 0.05


@pytest.mark.parametrize('how', [dict(keep_prob=0.3), dict(drop_exact=2)])
def test_some_are_never_dropped(how: dict[str, Any]) -> None:
    one = sampler(**how, always=[NAMES[1]])
    picks = [one.pick(i) for i in range(200)]
    assert all(NAMES[1] in pick for pick in picks)
    assert set().union(*picks) == set(NAMES) and len(set(picks)) == (
        3 if 'drop_exact' in how else 8
    )
    if 'drop_exact' in how:
        assert {len(pick) for pick in picks} == {len(NAMES) - 2}


def test_another_seed_picks_otherwise() -> None:
    one, other = (sampler(keep_prob=0.5, seed=s) for s in (0, 1))
    assert [one.pick(i) for i in range(20)] != [other.pick(i) for i in range(20)]


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(keep_prob=0.0),
        dict(keep_prob=1.5),
        dict(keep_prob=0.5, drop_exact=1),
        dict(drop_exact=4),
        dict(drop_exact=-1),
        dict(drop_exact=4, always=['t']),
        dict(always=['nobody']),
    ],
)
def test_what_cannot_be_sampled_is_told(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match='sampling'):
        sampler(**kwargs)


# -- schedules -------------------------------------------------------------------


def factors(
    schedule: WeightSchedule, iters: int = 10, per_epoch: int = 5
) -> list[float]:
    return [schedule.factor(Progress(i, iters, i // per_epoch)) for i in range(iters)]


def test_without_a_schedule_the_factor_is_one() -> None:
    assert factors(WeightSchedule()) == [1.0] * 10


def test_warm_up_rises_in_equal_steps_and_never_from_zero() -> None:
    got = factors(WeightSchedule(warmup_iters=4))
    assert got == pytest.approx([0.2, 0.4, 0.6, 0.8] + [1.0] * 6)


def test_linear_decay_falls_to_zero_at_the_end() -> None:
    got = factors(WeightSchedule(decay='linear'))
    assert got == pytest.approx([1 - i / 10 for i in range(10)])
    assert WeightSchedule(decay='linear').factor(Progress(10, 10)) == 0


def test_cosine_decay_is_half_way_in_the_middle() -> None:
    schedule = WeightSchedule(decay='cosine')
    assert schedule.factor(Progress(0, 10)) == 1
    assert schedule.factor(Progress(5, 10)) == pytest.approx(0.5)
    assert schedule.factor(Progress(2, 10)) == pytest.approx(
        (1 + math.cos(0.2 * math.pi)) / 2
    )
    assert schedule.factor(Progress(10, 10)) == pytest.approx(0)


def test_decay_may_end_earlier_and_stays_at_zero() -> None:
    got = factors(WeightSchedule(decay='linear', decay_iters=4))
    assert got == pytest.approx([1, 0.75, 0.5, 0.25] + [0] * 6)


def test_stop_at_an_epoch_is_exactly_zero_from_there() -> None:
    got = factors(WeightSchedule(stop_epoch=1))
    assert got == [1.0] * 5 + [0.0] * 5
    assert factors(WeightSchedule(stop_epoch=0)) == [0.0] * 10


def test_stop_at_an_iteration_is_exactly_zero_from_there() -> None:
    assert factors(WeightSchedule(stop_iter=3)) == [1.0] * 3 + [0.0] * 7
    assert factors(WeightSchedule(stop_iter=0)) == [0.0] * 10


def test_warm_up_and_decay_multiply() -> None:
    both = factors(WeightSchedule(warmup_iters=4, decay='linear'))
    parts = zip(
        factors(WeightSchedule(warmup_iters=4)), factors(WeightSchedule(decay='linear'))
    )
    assert both == pytest.approx([a * b for a, b in parts])


@given(
    warmup=st.integers(0, 50),
    decay=st.sampled_from([None, 'linear', 'cosine']),
    end=st.none() | st.integers(0, 200),
    stop=st.none() | st.integers(0, 20),
    iteration=st.integers(0, 500),
)
def test_a_factor_is_always_between_zero_and_one(
    warmup: int, decay: str | None, end: int | None, stop: int | None, iteration: int
) -> None:
    if end is not None:
        assume(decay is not None and end > warmup)
    schedule = WeightSchedule(warmup, decay, end, stop)
    factor = schedule.factor(Progress(iteration, 100, iteration // 10))
    assert 0 <= factor <= 1


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(decay='quadratic'),
        dict(warmup_iters=-1),
        dict(stop_epoch=-1),
        dict(stop_iter=-1),
        dict(decay_iters=-2),
        dict(warmup_iters=1.5),
        dict(decay_iters=5),
        dict(decay='linear', decay_iters=5, warmup_iters=5),
        dict(stop=1),
    ],
)
def test_what_is_no_schedule_is_told(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match='schedule'):
        WeightSchedule.parse(kwargs, 'schedule')


def test_progress_is_what_the_runner_last_said() -> None:
    assert Progress.now() == Progress(0, 1, 0)
    hub = MessageHub.get_instance('run')
    for name, value in (('iter', 7), ('max_iters', 20), ('epoch', 2)):
        hub.update_info(name, value)
    assert Progress.now() == Progress(7, 20, 2)
