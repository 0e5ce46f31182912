"""Promises of linear alignment."""

from __future__ import annotations

import pytest
import torch

from mkd_det.adapters.linear_align import LinearAlign
from mkd_det.errors import ShapeMismatchError
from mkd_det.registry import ADAPTERS, build_component
from mkd_det.structures import LevelSpec


def specs(*channels: int) -> list[LevelSpec]:
    return [LevelSpec(c, 8, (8, 8)) for c in channels]


def test_numbers_by_hand() -> None:
    layer = LinearAlign(specs(2), specs(1))
    layer.aligners[0].weight.data[:] = torch.tensor([[[[2.0]], [[-1.0]]]])
    layer.aligners[0].bias.data.fill_(0.5)
    level = torch.tensor([[[[1.0, 3.0]], [[4.0, 1.0]]]])
    # 2 a - b + 0.5: linear, so what is negative stays so
    assert layer([level], [level[:, :1]]).student[0].tolist() == [[[[-1.5, 5.5]]]]


def test_equal_widths_pass_unchanged() -> None:
    layer = build_component(
        ADAPTERS,
        dict(type='LinearAlign'),
        'adapter align',
        student=specs(4, 4),
        teacher=specs(4, 6),
    )
    assert sum(p.numel() for p in layer.parameters()) == 4 * 6 + 6
    levels = [torch.randn(2, 4, 8, 8, requires_grad=True) for _ in range(2)]
    out = layer(levels, [torch.randn(2, c, 8, 8) for c in (4, 6)])
    assert out.student[0] is levels[0]
    assert out.student[1].shape == (2, 6, 8, 8)


@pytest.mark.parametrize('shape', [(2, 4, 6, 6), (2, 9, 4), (2, 4)])
def test_every_kind_of_level_keeps_its_shape(shape: tuple[int, ...]) -> None:
    layer = LinearAlign(specs(4), specs(6))
    student = torch.randn(shape, requires_grad=True)
    wanted = (shape[0], 6, *shape[2:]) if len(shape) != 3 else (2, 9, 6)
    teacher = torch.randn(wanted, requires_grad=True)
    out = layer([student], [teacher])
    assert out.student[0].shape == teacher.shape and out.losses == {}
    assert torch.equal(out.teacher[0], teacher)
    assert not out.teacher[0].requires_grad
    out.student[0].sum().backward()
    assert student.grad is not None and bool(student.grad.any())


def test_other_numbers_of_levels_are_refused() -> None:
    with pytest.raises(ShapeMismatchError) as info:
        LinearAlign(specs(4), specs(4, 4))
    assert info.value.expected.startswith('2 levels')
    assert info.value.actual.startswith('1 levels')
