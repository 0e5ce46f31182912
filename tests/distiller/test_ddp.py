"""Two processes, gradients averaged by DDP, which is not told to look for unused
parameters: every trained parameter gets a gradient in every step."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import tiny

SMALL, BIG, OTHER = tiny.gfl(4, 8), tiny.gfl(8, 16), tiny.atss(8, 8)
RANKS = 2


def all_terms() -> dict[str, Any]:
    return tiny.distiller(SMALL, BIG)


def some_idle() -> dict[str, Any]:
    """From the second epoch on nobody reads the adapter."""
    cfg = tiny.distiller(SMALL, BIG)
    cfg['terms']['loss_relation']['schedule'] = dict(stop_epoch=1)
    return cfg


def sampled() -> dict[str, Any]:
    """Two teachers, each with an adapter, of which one or both take part."""
    cfg = tiny.distiller(SMALL, BIG, sampling=dict(keep_prob=0.5))
    cfg['teachers']['u'] = dict(cfg=OTHER, checkpoint=None)
    cfg['adapters']['guide_u'] = dict(
        type='GuidanceLayer', student='stages', teacher='u.stages'
    )
    cfg['terms']['loss_relation_u'] = dict(
        type='RelationKD', student='guide_u.student', teacher='guide_u.teacher'
    )
    return cfg


def one_side() -> dict[str, Any]:
    """Of the adapter only what it makes of the teacher is read."""
    cfg = tiny.distiller(SMALL, BIG)
    cfg['terms'] = dict(
        loss_attention=dict(
            type='AttentionKD', student='stages', teacher='guide.teacher'
        )
    )
    return cfg


def with_truth() -> dict[str, Any]:
    """Losses that know the ground truth, a probe, and shares measured on the way."""
    big = tiny.gfl(8, 16, 2)
    cfg = tiny.distiller(SMALL, big, branches={})
    cfg['taps']['inner'] = ['bbox_head.cls_convs.0', 'bbox_head.reg_convs.0']
    cfg['adapters'] = dict(
        cross=dict(type='CrossHead', student='inner', teacher='t.inner')
    )
    cfg['terms'] = dict(
        loss_fgd=dict(type='FGD', student='fpn', teacher='t.fpn', weight=0.01),
        loss_ld=dict(type='LD', student='head', teacher='t.head'),
        loss_cross=dict(type='SoftOutputKD', student='cross.student', teacher='t.head'),
    )
    cfg['balance'] = dict(type='GradientShare', shares=0.5, interval=2)
    return cfg


SCENES = {
    'all terms': all_terms,
    'some idle': some_idle,
    'sampled teachers': sampled,
    'one side read': one_side,
    'with the ground truth': with_truth,
}
STEPS = 6


def work(rank: int, folder: str) -> None:
    """One of the processes: every scene, one after the other."""
    from mmdet.utils import register_all_modules

    import mkd_det  # noqa: F401

    torch.set_num_threads(1)
    register_all_modules()
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/meeting',
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=120),
    )
    for name, scene in SCENES.items():
        result = play(scene(), rank)
        torch.save(result, Path(folder) / f'{name} {rank}.pt')
    dist.destroy_process_group()


def play(cfg: dict[str, Any], rank: int) -> dict[str, Any]:
    """A few training steps, on other images in each process."""
    from mmengine.logging import MessageHub
    from mmengine.model import ExponentialMovingAverage, MMDistributedDataParallel
    from mmengine.optim import OptimWrapper

    # Other weights in each, which DDP makes equal; but the same teachers.
    model = tiny.build(cfg, seed=rank)
    for teacher in model.teachers.values():
        for parameter in teacher.model.parameters():
            dist.broadcast(parameter.data, 0)
    ddp = MMDistributedDataParallel(
        module=model, broadcast_buffers=False, find_unused_parameters=False
    )
    theirs = {id(p) for t in model.teachers.values() for p in t.model.parameters()}
    assert not theirs & {id(p) for p in ddp.parameters()}
    average = ExponentialMovingAverage(model, momentum=0.5)
    wrapper = OptimWrapper(torch.optim.SGD(ddp.parameters(), lr=0.05))
    hub, logged, states = MessageHub.get_current_instance(), [], []
    for step in range(STEPS):
        hub.update_info('iter', step)
        hub.update_info('epoch', step // 3)
        batch = tiny.batch(seed=10 * step + rank)
        logged.append({k: float(v) for k, v in ddp.train_step(batch, wrapper).items()})
        average.update_parameters(model)
        states.append({k: v.detach().clone() for k, v in model.named_parameters()})
    averaged = {k: v.detach() for k, v in average.module.named_parameters()}
    return dict(logged=logged, states=states, averaged=averaged)


@pytest.fixture(scope='module')
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """What every scene left behind, by rank."""
    folder = tmp_path_factory.mktemp('ddp')
    os.environ.setdefault('GLOO_SOCKET_IFNAME', 'lo')
    mp.spawn(work, (str(folder),), nprocs=RANKS)
    return {
        name: [torch.load(folder / f'{name} {rank}.pt') for rank in range(RANKS)]
        for name in SCENES
    }


@pytest.mark.parametrize('scene', SCENES)
def test_parameters_stay_equal_and_losses_finite(scene: str, played: dict) -> None:
    first, second = played[scene]
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


@pytest.mark.parametrize('scene', SCENES)
def test_averaged_weights_are_equal_too(scene: str, played: dict) -> None:
    first, second = (result['averaged'] for result in played[scene])
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_with_all_terms_all_are_there_in_every_step(played: dict) -> None:
    for result in played['all terms']:
        for logged in result['logged']:
            assert {'loss_soft_cls', 'loss_relation', 'loss_attention'} <= set(logged)
            assert 'loss_idle' not in logged


def test_what_is_idle_waits_with_a_gradient_of_zero(played: dict) -> None:
    for result in played['some idle']:
        active = ['loss_relation' in logged for logged in result['logged']]
        assert active == [True] * 3 + [False] * 3
        key = 'adapters.guide.student_side.0.0.weight'
        weights = [state[key] for state in result['states']]
        assert not torch.equal(weights[0], weights[2])  # it learned ...
        assert torch.equal(weights[2], weights[5])  # ... until nobody read it


def test_all_ranks_balance_alike(played: dict) -> None:
    ours, theirs = (
        [
            {k: v for k, v in logged.items() if k.endswith('_factor')}
            for logged in result['logged']
        ]
        for result in played['with the ground truth']
    )
    assert ours[0] and ours == theirs
    assert len({tuple(step.values()) for step in ours}) > 1


def test_all_ranks_pick_the_same_teachers(played: dict) -> None:
    picks = [
        [
            ('loss_relation' in logged, 'loss_relation_u' in logged)
            for logged in result['logged']
        ]
        for result in played['sampled teachers']
    ]
    assert picks[0] == picks[1]
    assert (False, False) not in picks[0]
    # Both sat out some step, or this would be no test of sampling.
    assert (
        {pick[0] for pick in picks[0]}
        == {pick[1] for pick in picks[0]}
        == {True, False}
    )
