"""Differences of width and depth are told in words."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from mkd_det.checkpoints.checkpoint import load_state_dict_strict
from mkd_det.checkpoints.shape_mismatch import describe_difference, width_factors
from mkd_det.errors import CheckpointKeysError


def layers(width: int, depth: int = 2, classes: int = 3) -> dict[str, Tensor]:
    """State dict of a small network."""
    model = nn.Module()
    model.stem = nn.Conv2d(3, width, 1)
    model.body = nn.Sequential(*[nn.Conv2d(width, width, 1) for _ in range(depth)])
    model.cls = nn.Conv2d(width, classes, 1)
    return model.state_dict()


@pytest.mark.parametrize(('theirs', 'factor'), [(16, 2.0), (4, 0.5), (12, 1.5)])
def test_another_width_is_told_with_its_factor(theirs: int, factor: float) -> None:
    assert width_factors(layers(8), layers(theirs)) == (factor, factor)
    words = f'the layers of the checkpoint are {factor:g} times as wide'
    assert describe_difference(layers(8), layers(theirs)).startswith(words)


def test_widths_that_differ_by_several_factors_are_a_range() -> None:
    mixed = {**layers(8), 'stem.weight': layers(32)['stem.weight']}
    mixed['body.0.weight'] = layers(16)['body.0.weight']
    assert width_factors(layers(8), mixed) == (2.0, 4.0)
    assert ' 2 to 4 times as wide' in describe_difference(layers(8), mixed)


def test_another_depth_is_told_with_both_numbers() -> None:
    assert describe_difference(layers(8, depth=2), layers(8, depth=5)) == (
        'body has 5 layers in the checkpoint, 2 in the model'
    )


def test_other_classes_are_no_other_width() -> None:
    assert describe_difference(layers(8), layers(8, classes=6)) == ''
    mixed = {**layers(16), 'stem.weight': layers(4)['stem.weight']}
    assert width_factors(layers(8), mixed) is None, 'wider here and narrower there'


def test_whoever_loads_a_checkpoint_tells_the_difference() -> None:
    model = nn.Conv2d(3, 8, 1)
    wide = nn.Conv2d(3, 24, 1).state_dict()
    with pytest.raises(CheckpointKeysError, match='are 3 times as wide'):
        load_state_dict_strict(model, wide, 'x.pth', 'the model')
