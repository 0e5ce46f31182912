"""Promises of masked generation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mkd_det.adapters.masked_generation import MaskedGeneration
from mkd_det.errors import ConfigError, ShapeMismatchError
from mkd_det.structures import LevelSpec


def specs(*channels: int) -> list[LevelSpec]:
    return [LevelSpec(c, 8, (8, 8)) for c in channels]


def passing_on(layer: MaskedGeneration) -> MaskedGeneration:
    """Return an adapter whose generators return the positive part of their input."""
    for generator in layer.generators:
        for conv in (generator[0], generator[2]):
            torch.nn.init.dirac_(conv.weight)
            torch.nn.init.zeros_(conv.bias)
    return layer


def test_masks_are_drawn_in_each_step_and_shared_by_all_channels() -> None:
    layer = passing_on(MaskedGeneration(specs(4), specs(4), hidden=0.65))
    student = torch.ones(8, 4, 32, 32)
    one, other = (layer([student], [student]).student[0] for _ in range(2))
    for seen in (one, other):
        assert set(seen.unique().tolist()) == {0.0, 1.0}
        assert abs(seen.mean().item() - 0.35) < 0.02
        assert torch.equal(seen, seen[:, :1].expand_as(seen))
    assert not torch.equal(one, other)


def test_numbers_by_hand() -> None:
    layer = MaskedGeneration(specs(1), specs(1), hidden=0.0)
    first, _, second = layer.generators[0]
    for conv, weight, bias in ((first, 2.0, -3.0), (second, 1.0, 0.5)):
        torch.nn.init.zeros_(conv.weight)
        conv.weight.data[0, 0, 1, 1] = weight
        conv.bias.data.fill_(bias)
    level = torch.tensor([[[[1.0, 2.0]]]])
    # max(2 x - 3, 0) + 0.5
    assert layer([level], [level]).student[0].tolist() == [[[[0.5, 1.5]]]]


def test_widths_differ_and_every_kind_of_level_keeps_its_shape() -> None:
    for shape in ((2, 4, 6, 6), (2, 9, 4), (2, 4)):
        layer = MaskedGeneration(specs(4), specs(6))
        student = torch.randn(shape, requires_grad=True)
        wanted = (shape[0], 6, *shape[2:]) if len(shape) != 3 else (2, 9, 6)
        teacher: Tensor = torch.randn(wanted, requires_grad=True)
        out = layer([student], [teacher])
        assert out.student[0].shape == teacher.shape and out.losses == {}
        assert torch.equal(out.teacher[0], teacher)
        assert not out.teacher[0].requires_grad
        out.student[0].sum().backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, name


def test_equal_widths_need_no_aligner() -> None:
    names = [n for n, _ in MaskedGeneration(specs(4), specs(4)).named_parameters()]
    assert names and all(name.startswith('generators') for name in names)


@pytest.mark.parametrize('hidden', [-0.1, 1.0])
def test_impossible_fractions(hidden: float) -> None:
    with pytest.raises(ConfigError, match='hidden'):
        MaskedGeneration(specs(4), specs(4), hidden=hidden)


def test_other_numbers_of_levels_are_an_error() -> None:
    with pytest.raises(ShapeMismatchError):
        MaskedGeneration(specs(4), specs(4, 4))
