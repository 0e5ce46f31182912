"""A head that is its own teacher has nothing to learn, or the plan is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from mkd_det import LOSSES, PairLoss
from mkd_det.errors import HeadKindError
from mkd_det.heads.proofs.proof import ReadTwice
from mkd_det.losses.outputs.aggregation import LossAggregation
from mkd_det.losses.outputs.soft_output import SoftOutputKD
from mkd_det.plan.checks.agreement import check_agreement
from mkd_det.plan.plan import Term
from mkd_det.structures import HeadOutput
from plans import build, refused, term


def output(shift: float = 0.0) -> HeadOutput:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(1, 40, 2, generator=generator) * 100
    boxes = torch.cat([corner, corner + 20], -1)
    return HeadOutput(torch.randn(1, 40, 3, generator=generator), boxes + shift)


def check(loss: PairLoss, trained: HeadOutput, evaluated: HeadOutput) -> None:
    check_agreement('it', Term('t', {}, loss), ReadTwice(trained, evaluated), (64, 64))


def test_equal_outputs_give_nothing_to_learn() -> None:
    check(SoftOutputKD(), output(), output())


@pytest.mark.parametrize('cls', ['BinaryCE', 'CE'])
def test_cross_entropies_have_no_gradient_at_agreement(cls: str) -> None:
    activation: Any = 'sigmoid' if cls == 'BinaryCE' else 'softmax'
    loss = LossAggregation(losses=[dict(type=cls)], activation=activation)
    check(loss, output(), output())
    apart = output()._replace(scores=output().scores + 1.0 * torch.eye(3)[0])
    with pytest.raises(HeadKindError, match='has something to learn'):
        check(loss, apart, output())


def test_the_part_that_differs_is_named() -> None:
    with pytest.raises(HeadKindError) as caught:
        check(SoftOutputKD(), output(shift=8.0), output())
    assert 'SoftOutputKD box' in caught.value.actual
    assert 'cls' not in caught.value.actual
    assert "taps=dict(fpn='neck')" in caught.value.fix


class DoubledKD(PairLoss):
    """Wants the teacher's scores twice over: it is not least where both agree."""

    reads = 'outputs'

    def outputs(self, student: Any, teacher: Any, mask: Any = None) -> Tensor:
        return (student.scores - 2 * teacher.scores).square().mean()


@pytest.fixture
def doubled() -> Iterator[None]:
    LOSSES.register_module(module=DoubledKD, force=True)
    yield
    LOSSES.module_dict.pop('DoubledKD')


def test_a_loss_that_is_not_least_at_agreement_is_refused(doubled: None) -> None:
    terms = term('DoubledKD', 'head', 't.head')
    error = refused(HeadKindError, terms=terms)
    assert 'DoubledKD' in str(error.actual)
    # The advice works, followed literally.
    assert 'least_at_agreement = False' in error.fix
    DoubledKD.least_at_agreement = False  # type: ignore[assignment,method-assign]
    assert build(terms=terms).plan.terms


@pytest.mark.parametrize('kind', ['SoftOutputKD', 'LD', 'LossAggregation'])
def test_losses_of_heads_agree_with_themselves(kind: str) -> None:
    assert build(terms=term(kind, 'head', 't.head')).plan.terms


def test_second_stages_and_queries_agree_with_themselves() -> None:
    query = term('QueryKD', 'head', 't.head', layers='all')
    assert build(tiny.dino(), tiny.dino(), terms=query).plan.terms
    regions = dict(type='RegionHead', student='rois', teacher='t.fpn')
    taps = dict(rois='roi_head.bbox_roi_extractor:in1', box='roi_head.bbox_head')
    cfg = dict(
        adapters=dict(regions=regions),
        taps=dict(fpn='neck', **taps),
        terms=term('ProposalKD', 'box', 'regions.teacher'),
    )
    assert build(tiny.faster_rcnn(), tiny.faster_rcnn(), **cfg).plan.terms
