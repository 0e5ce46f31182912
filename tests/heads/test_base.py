"""A new kind of head is one class: taps, plan, losses and recipes do not know kinds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pytest
import torch
from mmdet.models.dense_heads import GFLHead
from mmdet.registry import MODELS
from torch import Tensor, nn

import tiny
from mkd_det import HEADS, LOSSES, HeadReader, PairLoss
from mkd_det.errors import HeadKindError
from mkd_det.heads.base import find_reader, traits_of
from mkd_det.heads.readers.dense import DenseReader
from mkd_det.heads.running import image_samples, run_features
from mkd_det.structures import HeadOutput
from plans import refused


class NamedHead(GFLHead):
    """Yields a dict, by names of its own, which no tap can split."""

    def forward(self, x: Any) -> Any:
        scores, boxes = super().forward(x)
        return {'boxes': boxes, 'scores': scores}

    def loss(self, x: Any, batch_data_samples: Any) -> Any:
        samples = [s.gt_instances for s in batch_data_samples]
        metas = [s.metainfo for s in batch_data_samples]
        out = self(x)
        return self.loss_by_feat(out['scores'], out['boxes'], samples, metas)


class NamedReader(HeadReader):
    """Reads it, in one file."""

    name: ClassVar[str] = 'named'
    ran: ClassVar[list[int]] = []

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        return isinstance(module, NamedHead)

    @classmethod
    def layout(cls, value: Any) -> Any:
        return list(zip(value['scores'], value['boxes'], strict=True))

    @classmethod
    def beside(cls, path: str) -> dict[str, str]:
        return {'features': f'{path}:in'}

    @classmethod
    def run(cls, model: Any, head: Any, features: Any, samples: Sequence[Any]) -> None:
        cls.ran.append(len(samples))
        head(features)

    def read(self, head: Any, levels: Any, features: Any = ()) -> HeadOutput:
        assert [f.shape[-2:] for f in features] == [s.shape[-2:] for s, _ in levels]
        return DenseReader(head).read(head, levels)


@pytest.fixture(autouse=True)
def third_kind() -> Iterator[type[NamedReader]]:
    MODELS.register_module(module=NamedHead, force=True)
    HEADS.register_module(name='third', module=NamedReader, force=True)
    yield NamedReader
    HEADS.module_dict.pop('third', None)
    NamedReader.aligned = True
    MODELS.module_dict.pop('NamedHead', None)


def named(base: int = 4, neck: int = 8) -> dict[str, Any]:
    cfg = tiny.gfl(base, neck)
    cfg['bbox_head']['type'] = 'NamedHead'
    return cfg


TAPS = dict(taps=dict(head='bbox_head'), adapters={}, branches={})
SOFT = dict(loss_soft=dict(type='SoftOutputKD', student='head', teacher='t.head'))


def test_a_third_kind_of_head_is_one_class() -> None:
    NamedReader.ran.clear()
    cfg = tiny.distiller(named(), named(8, 16), terms=SOFT, **TAPS)
    model = tiny.build(cfg)
    assert NamedReader.ran == [1, 1]  # the planner's run, of each model
    assert set(model.plan.taps['student']) == {'head', 'head.features'}
    assert [str(s) for s in model.plan.specs['student', 'head']][0] == '3/8'
    data = model.data_preprocessor(tiny.batch(), True)
    losses = model(**data, mode='loss')
    assert {'loss_soft_cls', 'loss_soft_box'} <= set(losses)
    torch.stack([losses['loss_soft_cls'], losses['loss_soft_box']]).sum().backward()
    assert model.student.bbox_head.gfl_cls.weight.grad.abs().sum() > 0


def test_kinds_of_users_come_before_ours() -> None:
    head = tiny.build(named()).bbox_head
    assert find_reader(head) is NamedReader
    assert DenseReader.matches(head)


def test_heads_of_different_kinds_are_not_compared() -> None:
    error = refused(
        HeadKindError, student=named(), teacher=tiny.gfl(8, 16), terms=SOFT, **TAPS
    )
    assert 'a named head' in error.actual and 'a dense head' in error.expected


def test_rows_without_order_are_for_losses_that_match_them() -> None:
    NamedReader.aligned = False
    pair = dict(student=named(), teacher=named(8, 16), **TAPS)
    refused(HeadKindError, **pair, terms=SOFT)

    class MatchKD(PairLoss):
        """Compares the best score alone."""

        reads = 'outputs'
        matches_rows = True

        def outputs(self, student: Any, teacher: Any, mask: Any = None) -> Tensor:
            best = [side.scores.amax((1, 2)) for side in (student, teacher)]
            return (best[0] - best[1]).abs().mean()

    LOSSES.register_module(module=MatchKD, force=True)
    try:
        terms = dict(loss_x=dict(type='MatchKD', student='head', teacher='t.head'))
        assert tiny.build(tiny.distiller(**pair, terms=terms)).plan.terms
    finally:
        LOSSES.module_dict.pop('MatchKD')


def test_traits_name_what_a_head_is() -> None:
    assert traits_of(tiny.build(tiny.gfl(4, 8)).bbox_head) == {
        'dense',
        'sigmoid',
        'distributions',
    }
    assert traits_of(tiny.build(tiny.retinanet(4, 8)).bbox_head) == {'dense', 'sigmoid'}
    cascade = tiny.build(tiny.cascade_rcnn()).roi_head.bbox_head
    assert traits_of(cascade) == {'regions', 'softmax'}
    cascade[1].loss_cls.use_sigmoid = True
    assert not traits_of(cascade)
    assert not traits_of(None) and not traits_of(nn.Conv2d(1, 1, 1))


def test_images_without_metas_get_those_of_whole_images() -> None:
    samples = image_samples(torch.zeros(2, 3, 32, 64))
    assert [s.img_shape for s in samples] == [(32, 64)] * 2
    model = tiny.build(named())
    NamedReader.ran.clear()
    run_features(model, torch.zeros(2, 3, 32, 64), samples)
    assert NamedReader.ran == [2]
