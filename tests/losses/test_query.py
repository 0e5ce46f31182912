"""Queries of two heads, matched one to one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mkd_det.errors import ConfigError, HeadKindError
from mkd_det.losses.outputs.query import QueryKD
from mkd_det.structures import HeadOutput


def queries(count: int = 7, classes: int = 4, seed: int = 0, images: int = 2) -> Any:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(images, count, 2, generator=generator) * 0.5
    size = torch.rand(images, count, 2, generator=generator) * 0.4 + 0.05
    scores = torch.randn(images, count, classes, generator=generator) * 2
    return HeadOutput(scores, torch.cat([low, low + size], -1), earlier=())


def outputs(scores: Tensor, boxes: Tensor) -> HeadOutput:
    return HeadOutput(scores, boxes, earlier=())


def order(output: HeadOutput, rows: Tensor) -> HeadOutput:
    assert output.boxes is not None
    return output._replace(scores=output.scores[:, rows], boxes=output.boxes[:, rows])


def parts(loss: QueryKD, student: HeadOutput, teacher: HeadOutput) -> Any:
    found = loss([student], [teacher])
    assert isinstance(found, dict)
    return {name: float(part) for name, part in found.items()}


ZERO = pytest.approx(dict(cls=0, l1=0, giou=0), abs=1e-5)


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
@pytest.mark.parametrize('targets', [3, 300])
def test_equal_predictions_in_any_order_have_no_loss(
    activation: Any, targets: int
) -> None:
    loss = QueryKD(activation, targets=targets)
    teacher = queries()
    student = order(teacher, torch.randperm(7))
    assert parts(loss, student, teacher) == ZERO
    more = queries(3, seed=5)  # of the student, that nobody matches
    assert student.boxes is not None and more.boxes is not None
    wider = outputs(
        torch.cat([more.scores, student.scores], 1),
        torch.cat([more.boxes, student.boxes], 1),
    )
    assert parts(loss, wider, teacher) == ZERO


def test_the_most_confident_queries_of_a_larger_teacher_are_matched() -> None:
    teacher = queries(9)
    best = teacher.scores[0].amax(-1).topk(4).indices
    one = outputs(teacher.scores[:1], teacher.boxes[:1])
    assert parts(QueryKD(), order(one, best.flip(0)), one) == ZERO


def test_values_of_one_query() -> None:
    """Confidence 0.5, classes 0.5 and 0.2; the box is 0.1 to the right."""
    box = torch.tensor([[[0.2, 0.2, 0.6, 0.6]]])
    teacher = outputs(torch.tensor([[[0.0, -1.3863]]]), box)
    student = outputs(torch.tensor([[[1.3863, -1.3863]]]), box + 0.1)
    found = parts(QueryKD(negatives=0.1), student, teacher)
    bce = -(0.5 * torch.tensor(0.8).log() + 0.5 * torch.tensor(0.2).log())
    # The divisor is one per image at least. Boxes weigh 0.5^2.
    assert found['cls'] == pytest.approx((0.1 + 0.9 * 0.5) * 0.3 * float(bce), 1e-3)
    assert found['l1'] == pytest.approx(5 * 0.25 * 0.2, 1e-4)
    iou = 0.09 / (2 * 0.16 - 0.09)
    hull = 0.25
    giou = iou - (hull - (2 * 0.16 - 0.09)) / hull
    assert found['giou'] == pytest.approx(2 * 0.25 * (1 - giou), 1e-3)


def test_negatives_weigh_little() -> None:
    """Where the teacher sees nothing, boxes count nothing and classes a little."""
    teacher = queries(1, images=1)
    teacher = teacher._replace(scores=torch.full_like(teacher.scores, -12.0))
    student = queries(1, seed=1, images=1)
    with_them = parts(QueryKD(negatives=0.2), student, teacher)
    without = parts(QueryKD(negatives=0.0), student, teacher)
    assert without['cls'] < 1e-3 < with_them['cls']
    assert with_them['l1'] < 1e-3 and with_them['giou'] < 1e-3


def test_all_layers_meet_at_equal_depth() -> None:
    layers = [queries(seed=seed) for seed in range(6)]
    teacher = layers[-1]._replace(earlier=tuple(layers[:-1]))
    student = layers[5]._replace(earlier=(layers[1], layers[3]))
    assert parts(QueryKD(layers='all'), student, teacher) == ZERO
    last = layers[5]._replace(earlier=(layers[0], layers[0]))
    assert parts(QueryKD(layers='last'), last, teacher) == ZERO
    assert parts(QueryKD(layers='all'), last, teacher)['cls'] > 1e-3


def test_images_are_weighed() -> None:
    student, teacher = queries(seed=1), queries()
    first = outputs(student.scores[:1], student.boxes[:1])
    alone = QueryKD().outputs(first, HeadOutput(teacher.scores[:1], teacher.boxes[:1]))
    mask = torch.tensor([1.0, 0.0])[:, None].expand(-1, 7)
    weighed = QueryKD().outputs(student, teacher, mask)
    # At least one per image divides: twice as much for two images.
    for name, part in weighed.items():
        assert 0 < float(part) <= float(alone[name]) + 1e-5


def test_gradients_reach_classes_and_boxes_and_stay_finite() -> None:
    student, teacher = queries(seed=1), queries()
    scores, boxes = (t.clone().requires_grad_() for t in student[:2])
    found = QueryKD()([outputs(scores, boxes)], [teacher])
    sum(found.values()).backward()
    for grad in (scores.grad, boxes.grad):
        assert grad is not None and torch.isfinite(grad).all() and grad.abs().sum() > 0


def test_a_diverged_student_gives_a_loss_that_is_not_finite() -> None:
    student, teacher = queries(seed=1), queries()
    broken = student._replace(scores=student.scores * float('nan'))
    assert not torch.isfinite(QueryKD()([broken], [teacher])['cls'])


def test_heads_without_queries_are_refused() -> None:
    dense = queries()._replace(earlier=None)
    with pytest.raises(HeadKindError):
        QueryKD()([dense], [dense])


@pytest.mark.parametrize(
    'given',
    [
        dict(layers='first'),
        dict(targets=0),
        dict(targets=2.5),
        dict(negatives=2),
        dict(tau=0),
        dict(class_weight=-1),
        dict(class_weight=0, l1_weight=0, giou_weight=0),
        dict(costs=(1, 2)),
        dict(costs=(0, 0, 0)),
    ],
    ids=str,
)
def test_settings_out_of_range_are_told(given: Any) -> None:
    with pytest.raises(ConfigError):
        QueryKD(**given)
