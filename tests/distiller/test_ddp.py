"""Promise: DDP works on two ranks without `find_unused_parameters`.

Every trained parameter gets a gradient in every step.
"""

from __future__ import annotations

import os

import pytest
import torch
import torch.multiprocessing as mp

from ddp_trainings import RANKS, STEPS, TRAININGS, run_rank

# Trainings of two processes.
pytestmark = pytest.mark.commands


@pytest.fixture(scope='module')
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """Results of every training, by rank."""
    folder = tmp_path_factory.mktemp('ddp')
    os.environ.setdefault('GLOO_SOCKET_IFNAME', 'lo')
    mp.spawn(run_rank, (str(folder),), nprocs=RANKS)
    return {
        name: [torch.load(folder / f'{name} {rank}.pt') for rank in range(RANKS)]
        for name in TRAININGS
    }


@pytest.mark.parametrize('training', TRAININGS)
def test_parameters_stay_equal_and_losses_finite(training: str, results: dict) -> None:
    first, second = results[training]
    for step in range(STEPS):
        for name, value in first['states'][step].items():
            assert torch.equal(value, second['states'][step][name]), (step, name)
            assert torch.isfinite(value).all(), (step, name)
    # Each saw images of its own, and all of it was trained.
    assert first['logged'][0]['loss'] != second['logged'][0]['loss']
    start, end = first['states'][0], first['states'][-1]
    for part in ('student.backbone', 'student.neck', 'student.bbox_head'):
        assert any(
            not torch.equal(end[k], v) for k, v in start.items() if k.startswith(part)
        )


@pytest.mark.parametrize('training', TRAININGS)
def test_averaged_weights_are_equal_too(training: str, results: dict) -> None:
    first, second = (result['averaged'] for result in results[training])
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_with_all_terms_all_are_there_in_every_step(results: dict) -> None:
    for result in results['all terms']:
        for logged in result['logged']:
            assert {'loss_soft_cls', 'loss_relation', 'loss_attention'} <= set(logged)
            assert 'loss_idle' not in logged


def test_an_idle_adapter_gets_a_gradient_of_zero(results: dict) -> None:
    for result in results['some idle']:
        active = ['loss_relation' in logged for logged in result['logged']]
        assert active == [True] * 3 + [False] * 3
        key = 'adapters.guide.student_side.0.0.weight'
        weights = [state[key] for state in result['states']]
        assert not torch.equal(weights[0], weights[2])  # it learned ...
        assert torch.equal(weights[2], weights[5])  # ... until nobody read it


def test_all_ranks_balance_alike(results: dict) -> None:
    ours, theirs = (
        [
            {k: v for k, v in logged.items() if k.endswith('_factor')}
            for logged in result['logged']
        ]
        for result in results['with the ground truth']
    )
    assert ours[0] and ours == theirs
    assert len({tuple(step.values()) for step in ours}) > 1


def test_all_ranks_pick_the_same_teachers(results: dict) -> None:
    picks = [
        [
            ('loss_relation' in logged, 'loss_relation_u' in logged)
            for logged in result['logged']
        ]
        for result in results['sampled teachers']
    ]
    assert picks[0] == picks[1]
    assert (False, False) not in picks[0]
    # Both sat out some step, or this would be no test of sampling.
    assert (
        {pick[0] for pick in picks[0]}
        == {pick[1] for pick in picks[0]}
        == {True, False}
    )
