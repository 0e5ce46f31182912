"""Values of the losses on proposals, by hand, and what they refuse."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor

from mkd_det.errors import (
    ConfigError,
    HeadKindError,
    ShapeMismatchError,
    TeacherClassesError,
)
from mkd_det.functional import boxes_of_class, relative_l1
from mkd_det.losses.outputs.proposal import ProposalKD
from mkd_det.losses.outputs.proposal_masks import ProposalMaskKD
from mkd_det.structures import HeadOutput

# The teacher's probabilities: an object of class 0, and background.
T = torch.tensor([[[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]])
UNIFORM = torch.zeros(1, 2, 3)


def output(scores: Tensor, *boxes: list[float]) -> HeadOutput:
    return HeadOutput(scores, torch.tensor([boxes]) if boxes else None)


def test_classes_by_hand() -> None:
    """Weights 1 + 0.5 * p_background: 1.125 and 1.375."""
    parts = ProposalKD(boxes='off')([output(UNIFORM)], [output(T.log())])
    first = 0.5 * log(1.5) + 0.5 * log(0.75)
    second = 0.25 * log(0.375) + 0.75 * log(2.25)
    expected = (1.125 * first + 1.375 * second) / 2.5
    assert parts.keys() == {'cls'}
    assert parts['cls'].item() == pytest.approx(expected, rel=1e-5)


def test_background_weight_1_is_the_mean() -> None:
    loss = ProposalKD(boxes='off', background=1.0, class_weight=2.0)
    first = 0.5 * log(1.5) + 0.5 * log(0.75)
    second = 0.25 * log(0.375) + 0.75 * log(2.25)
    value = loss([output(UNIFORM)], [output(T.log())])['cls'].item()
    assert value == pytest.approx(first + second, rel=1e-5)


def test_boxes_by_hand() -> None:
    """Confidences 0.5 and 0.125, squares 1/4 and 1/64: the divisor is 1."""
    same = [0.0, 0.0, 10.0, 10.0]
    # Half as wide: IoU 0.5, no hull beyond; and a quarter of the mean relative L1.
    student = output(T.log(), [0.0, 0.0, 5.0, 10.0], same)
    teacher = output(T.log(), same, same)
    parts = ProposalKD()([student], [teacher])
    assert parts['cls'].item() == pytest.approx(0, abs=1e-6)
    assert parts['box'].item() == pytest.approx(0.25 * 0.5, rel=1e-4)
    parts = ProposalKD(boxes='l1', box_weight=2.0)([student], [teacher])
    assert parts['box'].item() == pytest.approx(2 * 0.25 * 0.5 / 4, rel=1e-5)


def test_a_mask_leaves_proposals_out() -> None:
    mask = [torch.tensor([[0.0, 1.0]])]
    parts = ProposalKD(boxes='off')([output(UNIFORM)], [output(T.log())], mask)
    expected = 0.25 * log(0.375) + 0.75 * log(2.25)
    assert parts['cls'].item() == pytest.approx(expected, rel=1e-5)


def test_the_box_of_the_teachers_class_is_compared() -> None:
    """The box of the other class may be anywhere; one box may serve all classes."""
    right, wrong = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]
    scores = T[:, :1].log()
    each = HeadOutput(scores, torch.tensor([[[right, wrong]]]))
    shared = HeadOutput(scores, torch.tensor([[[right]]]))
    for student, teacher in ((each, shared), (shared, each), (each, each)):
        value = ProposalKD()([student], [teacher])['box'].item()
        assert value == pytest.approx(0, abs=1e-5)
    turned = HeadOutput(scores, torch.tensor([[[wrong, right]]]))
    # Confidence 1/2; hull 3600, union 200.
    value = ProposalKD()([turned], [shared])['box'].item()
    assert value == pytest.approx(0.25 * (1 + 3400 / 3600), rel=1e-5)


def test_box_formulas() -> None:
    boxes = torch.arange(16.0).view(1, 2, 2, 4)
    chosen = boxes_of_class(boxes, torch.tensor([[1, 0]]))
    assert chosen.tolist() == [[[4, 5, 6, 7], [8, 9, 10, 11]]]
    point = torch.zeros(1, 4)
    distance = relative_l1(point + torch.tensor([0.0, 0, 2, 4]), point)
    assert distance.item() == pytest.approx(1.5)  # of sides of at least a pixel


def test_no_proposals_count_nothing() -> None:
    nothing = HeadOutput(torch.zeros(1, 0, 3), torch.zeros(1, 0, 2, 4))
    student = HeadOutput(nothing.scores.requires_grad_(), nothing.boxes)
    total = sum(ProposalKD()([student], [nothing]).values())
    total.backward()
    assert float(total) == 0


@pytest.mark.parametrize(
    'given',
    [
        dict(tau=0),
        dict(background=0),
        dict(boxes='iou'),
        dict(box_weight=-1),
        dict(class_weight=float('nan')),
    ],
)
def test_impossible_arguments(given: dict) -> None:
    with pytest.raises(ConfigError):
        ProposalKD(**given)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ShapeMismatchError):
        ProposalKD()([output(UNIFORM)], [output(torch.zeros(1, 2, 4))])
    with pytest.raises(HeadKindError) as caught:
        ProposalKD()([output(UNIFORM)], [output(T.log())])
    assert "boxes='off'" in caught.value.fix
    with pytest.raises(HeadKindError) as caught:
        ProposalKD()([UNIFORM[0]], [T[0]])
    assert 'RegionHead' in caught.value.fix


# -- masks -----------------------------------------------------------------------


def logits(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities).logit().view(1, -1, 1, 1)


LABELS = [torch.tensor([2, 1, 2, 2])]  # one positive, of class 1; 2 is the background


def test_masks_by_hand() -> None:
    """KL(0.75 || 0.5) for the label's class; the other class does not count."""
    loss = ProposalMaskKD()([logits(0.1, 0.5)], [logits(0.9, 0.75)], labels=LABELS)
    expected = 0.75 * log(1.5) + 0.25 * log(0.5)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_one_mask_for_all_classes_meets_the_labels() -> None:
    expected = 0.75 * log(1.5) + 0.25 * log(0.5)
    for student, teacher in (
        (logits(0.5), logits(0.9, 0.75)),
        (logits(0.1, 0.5), logits(0.75)),
        (logits(0.5), logits(0.75)),
    ):
        loss = ProposalMaskKD()([student], [teacher], labels=LABELS)
        assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_no_positives_count_nothing() -> None:
    student = torch.zeros(0, 2, 8, 8, requires_grad=True)
    labels = [torch.tensor([2, 2])]
    loss = ProposalMaskKD()([student], [torch.zeros(0, 2, 8, 8)], labels=labels)
    loss.backward()
    assert float(loss) == 0


def test_masks_that_cannot_be_compared() -> None:
    loss, one = ProposalMaskKD(), torch.zeros(1, 2, 8, 8)
    with pytest.raises(ShapeMismatchError, match='size'):
        loss([one], [torch.zeros(1, 2, 4, 4)], labels=LABELS)
    with pytest.raises(TeacherClassesError):
        loss([one], [torch.zeros(1, 3, 8, 8)], labels=LABELS)
    with pytest.raises(ShapeMismatchError, match='labels'):
        loss([one], [one], labels=[torch.tensor([0, 1])])
    with pytest.raises(ShapeMismatchError):
        loss([one, one], [one, one], labels=LABELS)
    with pytest.raises(ConfigError):
        ProposalMaskKD(tau=0)
