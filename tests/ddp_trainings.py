"""Trainings on two gloo ranks, for the tests of DDP.

Plain functions in a module of its own, so that spawned processes can import them.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import tiny

SMALL, BIG, OTHER = tiny.gfl(4, 8), tiny.gfl(8, 16), tiny.atss(8, 8)
RANKS = 2


def all_terms() -> dict[str, Any]:
    return tiny.distiller(SMALL, BIG)


def some_idle() -> dict[str, Any]:
    """No term reads the adapter from the second epoch on."""
    cfg = tiny.distiller(SMALL, BIG)
    cfg['terms']['loss_relation']['schedule'] = dict(stop_epoch=1)
    return cfg


def sampled() -> dict[str, Any]:
    """Two teachers, each with an adapter; one or both take part in a step."""
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
    """A term reads the teacher's side of the adapter only."""
    cfg = tiny.distiller(SMALL, BIG)
    cfg['terms'] = dict(
        loss_attention=dict(
            type='AttentionKD', student='stages', teacher='guide.teacher'
        )
    )
    return cfg


def with_truth() -> dict[str, Any]:
    """Losses that get the ground truth, a probe, and balanced terms."""
    big = tiny.gfl(8, 16, 2)
    cfg = tiny.distiller(SMALL, big, branches={})
    cfg['taps']['inner'] = ['bbox_head.cls_convs.0', 'bbox_head.reg_convs.0']
    cfg['adapters'] = dict(
        cross=dict(type='CrossHead', student='inner', teacher='t.inner')
    )
    cfg['terms'] = dict(
        loss_fgd=dict(type='FGD', student='fpn', teacher='t.fpn', weight=0.01),
        loss_ld=dict(type='LD', student='head', teacher='t.head'),
        loss_cross=dict(
            type='SoftOutputKD',
            student='cross.student',
            teacher='t.head',
            balance=1.0,
        ),
    )
    cfg['balance'] = dict(type='GradientShare', shares=0.5, interval=2)
    return cfg


def without_labels() -> dict[str, Any]:
    """Images without labels, in other numbers on each rank; see `batch_of`."""
    return tiny.distiller(SMALL, BIG)


def queries_without_labels() -> dict[str, Any]:
    """The same for a student whose loss cannot count some of its images."""
    cfg = tiny.distiller(tiny.detr(4, 8), tiny.detr(8, 8), adapters={}, branches={})
    cfg['terms'] = dict(
        loss_attention=dict(type='AttentionKD', student='fpn', teacher='t.fpn')
    )
    return cfg


def shared_queries() -> dict[str, Any]:
    """The student's decoder runs twice; queries pass trained layers between widths."""
    shared = dict(type='SharedQueries', student='decoder', teacher='t.decoder')
    return tiny.distiller(
        tiny.dino(base_channels=4, width=8, queries=4),
        tiny.dino(queries=4),
        taps=dict(decoder='decoder:call'),
        adapters=dict(shared=dict(shared, sampling='both')),
        branches={},
        terms=dict(
            loss_query=dict(
                type='QueryKD', student='shared.student', teacher='shared.teacher'
            )
        ),
    )


TRAININGS = {
    'all terms': all_terms,
    'some idle': some_idle,
    'sampled teachers': sampled,
    'one side read': one_side,
    'with the ground truth': with_truth,
    'without labels': without_labels,
    'queries without labels': queries_without_labels,
    'shared queries': shared_queries,
}
STEPS = 6


def batch_of(name: str, step: int, rank: int) -> dict[str, Any]:
    """Return the batch of a step; of some trainings 0, 1 or 2 of 2 have none."""
    batch = tiny.batch(seed=10 * step + rank)
    if name.endswith('without labels'):
        for sample in batch['data_samples'][: (step + rank) % 3]:
            sample.set_metainfo(dict(unlabeled=True))
    return batch


def run_rank(rank: int, folder: str) -> None:
    """Run every training, in one of the processes."""
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
    for name, make in TRAININGS.items():
        result = run_training(make(), rank, name)
        torch.save(result, Path(folder) / f'{name} {rank}.pt')
    dist.destroy_process_group()


def run_training(cfg: dict[str, Any], rank: int, name: str) -> dict[str, Any]:
    """Run a few training steps, on other images in each process."""
    from mmengine.logging import MessageHub
    from mmengine.model import ExponentialMovingAverage, MMDistributedDataParallel
    from mmengine.optim import OptimWrapper

    # Other weights in each, which DDP makes equal; but the same teachers.
    model = tiny.build(cfg, seed=rank)
    tiny.fill_level_embeddings(model)
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
        batch = batch_of(name, step, rank)
        logged.append({k: float(v) for k, v in ddp.train_step(batch, wrapper).items()})
        average.update_parameters(model)
        states.append({k: v.detach().clone() for k, v in model.named_parameters()})
    averaged = {k: v.detach() for k, v in average.module.named_parameters()}
    return dict(logged=logged, states=states, averaged=averaged)
