"""What the shared classes of two heads are, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mkd_det.class_maps.class_map import Classes, ClassMap
from mkd_det.class_maps.restriction import Restriction
from mkd_det.functional import merged_logits
from mkd_det.heads.ground_truth import confident_boxes
from mkd_det.structures import HeadOutput

# Class 0 of the student is 2 of the teacher, class 2 the union of 0 and 3.
MAP = ClassMap('t', Classes(3), Classes(4), ((2,), (), (0, 3)))
BOTH = {'student': 'student', 'teacher': 'teacher'}


def restricted(restriction: Restriction, **sides: Any) -> dict[str, Any]:
    found = restriction({name: (side,) for name, side in sides.items()})
    return {name: side[0] for name, side in found.items()}


def test_what_the_student_lacks_is_background_to_it() -> None:
    """Probabilities of the teacher: 0.1, 0.2, 0.3, 0.15, background 0.25."""
    teacher = torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25]]).log()
    student = torch.tensor([[0.4, 0.2, 0.1, 0.3]]).log()
    both = Restriction(MAP, BOTH, background=True, exclusive=True)
    found = restricted(both, student=student, teacher=teacher)
    # Class 1 of the teacher goes to the background: 0.2 + 0.25.
    assert torch.allclose(
        found['teacher'].softmax(-1), torch.tensor([[0.3, 0.25, 0.45]])
    )
    # Class 1 of the student is left out, and the others are renormalised.
    wanted = torch.tensor([[0.4, 0.1, 0.3]]) / 0.8
    assert torch.allclose(found['student'].softmax(-1), wanted)


def test_without_background_the_shared_classes_are_renormalised() -> None:
    teacher = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
    both = Restriction(MAP, BOTH, exclusive=True)
    found = restricted(both, student=torch.zeros(1, 3), teacher=teacher)
    wanted = torch.tensor([[0.3, 0.5]]) / 0.8
    assert torch.allclose(found['teacher'].softmax(-1), wanted)
    assert found['student'].shape == (1, 2)


def test_independent_classes_are_columns_and_unions_the_likeliest() -> None:
    scores = torch.tensor([[[0.1, 0.2, 0.3, -0.5], [1.0, 2.0, 3.0, 4.0]]])
    boxes = torch.rand(1, 2, 4)
    teacher = HeadOutput(scores, boxes, earlier=(HeadOutput(scores + 1, boxes),))
    student = HeadOutput(torch.arange(6.0).view(1, 2, 3), boxes)
    found = restricted(Restriction(MAP, BOTH), student=student, teacher=teacher)
    assert found['teacher'].scores.tolist() == [
        [[pytest.approx(0.3), pytest.approx(0.1)], [3.0, 4.0]]
    ]
    assert found['student'].scores.tolist() == [[[0.0, 2.0], [3.0, 5.0]]]
    assert found['teacher'].boxes is boxes
    earlier = found['teacher'].earlier[0].scores
    assert torch.equal(earlier, found['teacher'].scores + 1)


def test_boxes_of_each_class_go_with_their_class() -> None:
    scores = torch.tensor([[[5.0, 0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 5.0, 0.0]]])
    boxes = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 2, 4, 4)
    both = Restriction(MAP, BOTH, background=True, exclusive=True)
    student = HeadOutput(torch.zeros(1, 2, 4), torch.zeros(1, 2, 1, 4))
    found = restricted(both, student=student, teacher=HeadOutput(scores, boxes))
    # Of the union the box of the likelier class, 0 or 3, row by row.
    assert found['teacher'].boxes[0, :, :, 0].tolist() == [[2.0, 0.0], [2.0, 3.0]]
    assert found['student'].boxes.shape == (1, 2, 1, 4)  # shared by all classes


def test_labels_are_those_of_the_shared_classes() -> None:
    labels = torch.tensor([0, 1, 2, 3, -1, 255])
    both = Restriction(MAP, BOTH, background=True, exclusive=True)
    found = restricted(both, student=torch.zeros(6, 4), labels=labels)
    assert found['labels'].tolist() == [0, -1, 1, 2, -1, -1]


def test_boxes_of_a_teacher_are_of_the_students_classes() -> None:
    """In place of ground truth: objects of other classes are none."""
    scores = torch.tensor([[[0.1, 5.0, 0.3, 4.0], [-9.0, 6.0, -9.0, -9.0]]])
    boxes = torch.tensor([[[0.0, 0.0, 5.0, 5.0], [9.0, 9.0, 15.0, 15.0]]])
    shared = Restriction.of_teacher(MAP, 'sigmoid')
    output = shared.of_side('teacher', HeadOutput(scores, boxes))
    found = confident_boxes(output, 'sigmoid', 0.5, (16, 16))
    assert [labels.tolist() for labels in found.labels] == [[1]]
    assert shared.labels_of_student(found).labels[0].tolist() == [2]


def test_features_of_the_student_in_the_teachers_head_have_its_classes() -> None:
    both = Restriction(MAP, dict.fromkeys(BOTH, 'teacher'))
    level = torch.rand(2, 4, 3, 3)
    found = restricted(both, student=level, teacher=level)
    assert torch.equal(found['student'], found['teacher'])
    assert found['student'].shape == (2, 2, 3, 3)


def test_gradients_of_unions_reach_their_classes_alone() -> None:
    logits = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    groups = ((3,), (0, 4))

    def merged(given: Tensor) -> Tensor:
        return merged_logits(given, groups, True)

    assert torch.autograd.gradcheck(merged, (logits,))
    merged(logits).sum().backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[:, [1, 2]], torch.zeros(2, 2, dtype=torch.float64))


def test_all_classes_in_their_order_are_passed_on_unchanged() -> None:
    logits = torch.randn(2, 3)
    assert merged_logits(logits, ((0,), (1,), (2,)), True) is logits
    assert merged_logits(logits, ((1,), (0,), (2,)), True) is not logits
