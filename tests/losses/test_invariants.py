"""Invariances of the losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mkd_det import functional as MF
from mkd_det.losses import PairLoss
from mkd_det.losses.features.attention import AttentionKD
from mkd_det.losses.features.feature import FeatureKD
from mkd_det.losses.features.relation import RelationKD
from mkd_det.losses.outputs.soft_output import SoftOutputKD
from mkd_det.structures import HeadOutput

quick = settings(
    max_examples=25,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**31 - 1)
scales = st.floats(0.05, 50.0)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def two_levels(seed: int, channels: int, n: int = 2) -> list[Tensor]:
    return [normal(seed, n, channels, 6, 8), normal(seed + 1, n, channels, 3, 4)]


def value(loss: PairLoss, student: list, teacher: list) -> float:
    out = loss(student, teacher)
    return float(sum(out.values()) if isinstance(out, dict) else out)


def about(wanted: float) -> Any:
    return pytest.approx(wanted, rel=2e-3, abs=1e-5)


@quick
@given(seeds, scales, scales)
@pytest.mark.parametrize(
    'loss',
    [AttentionKD(), RelationKD(), RelationKD(relation='spatial'), FeatureKD()],
    ids=['attention', 'channel', 'spatial', 'pearson'],
)
def test_the_scale_of_features_does_not_matter(
    loss: PairLoss, seed: int, ours: float, theirs: float
) -> None:
    student, teacher = two_levels(seed, 4), two_levels(seed + 7, 4)
    assert value(
        loss, [x * ours for x in student], [x * theirs for x in teacher]
    ) == about(value(loss, student, teacher))


@quick
@given(seeds, scales, st.floats(-20, 20))
def test_pearson_is_invariant_to_each_channels_scale_and_offset(
    seed: int, scale: float, offset: float
) -> None:
    student, teacher = normal(seed, 2, 3, 5, 5), normal(seed + 1, 2, 3, 5, 5)
    by_channel = torch.tensor([1.0, scale, 2.0]).reshape(3, 1, 1)
    moved = student * by_channel + offset * by_channel.flip(0)
    assert value(FeatureKD(), [moved], [teacher]) == about(
        value(FeatureKD(), [student], [teacher])
    )


@quick
@given(seeds)
def test_attention_and_spatial_relations_ignore_the_number_of_channels(
    seed: int,
) -> None:
    student, teacher = normal(seed, 2, 6, 5, 4), normal(seed + 1, 2, 3, 5, 4)
    # A rotation of the channels changes neither lengths nor angles.
    rotation = torch.linalg.qr(normal(seed + 2, 6, 6)).Q
    turned = torch.einsum('dc,nchw->ndhw', rotation, student)
    for loss in (AttentionKD(), RelationKD(relation='spatial')):
        assert value(loss, [turned], [teacher]) == about(
            value(loss, [student], [teacher])
        )


@quick
@given(seeds)
def test_flow_is_invariant_to_the_order_of_positions(seed: int) -> None:
    first, second = normal(seed, 2, 3, 4, 5), normal(seed + 1, 2, 6, 4, 5)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    mixed = [x.flatten(2)[..., order].reshape_as(x) for x in (first, second)]
    assert torch.allclose(
        MF.fsp_matrix(*mixed), MF.fsp_matrix(first, second), atol=1e-5
    )
    # The other way round it is the transpose.
    assert torch.allclose(
        MF.fsp_matrix(second, first),
        MF.fsp_matrix(first, second).transpose(1, 2),
        atol=1e-6,
    )


@quick
@given(seeds, st.integers(2, 40), st.integers(1, 24))
@pytest.mark.parametrize(
    'loss, high',
    [
        (AttentionKD(), 2.0),
        (RelationKD(), 4.0),
        (RelationKD(relation='spatial'), 4.0),
        (FeatureKD(), 2.0),
    ],
    ids=['attention', 'channel', 'spatial', 'pearson'],
)
def test_the_size_is_bounded_whatever_the_shape(
    loss: PairLoss, high: float, seed: int, channels: int, side: int
) -> None:
    student = [normal(seed + i, 2, channels, side, side) for i in range(2)]
    teacher = [normal(seed + 2 + i, 2, channels, side, side) for i in range(2)]
    assert -1e-5 <= value(loss, student, teacher) <= high + 1e-5


@quick
@given(seeds, st.integers(1, 4))
@pytest.mark.parametrize('loss', [AttentionKD(), FeatureKD(), FeatureKD(form='l2')])
def test_the_size_does_not_grow_with_levels_channels_or_map(
    loss: PairLoss, seed: int, times: int
) -> None:
    student, teacher = normal(seed, 1, 3, 4, 4), normal(seed + 1, 1, 3, 4, 4)
    once = value(loss, [student], [teacher])
    assert value(loss, [student] * times, [teacher] * times) == about(once)
    wide = [torch.cat([x] * times, 1) for x in (student, teacher)]
    assert value(loss, wide[:1], wide[1:]) == about(once)
    # The same picture, each cell as a block of cells.
    large = [
        x.repeat_interleave(times, 2).repeat_interleave(times, 3)
        for x in (student, teacher)
    ]
    assert value(loss, large[:1], large[1:]) == about(once)


@quick
@given(seeds, st.floats(-30, 30), st.floats(0.5, 8))
def test_softmax_is_invariant_to_a_constant(
    seed: int, offset: float, tau: float
) -> None:
    student, teacher = normal(seed, 4, 7), normal(seed + 1, 4, 7)
    loss = SoftOutputKD(tau=tau)
    assert value(loss, [student + offset], [teacher - offset]) == about(
        value(loss, [student], [teacher])
    )


def dense(seed: int, places: int = 12, scale: float = 3.0) -> HeadOutput:
    corner = normal(seed, 2, places, 2) * 20
    size = normal(seed + 1, 2, places, 2).abs() * 10 + 1
    return HeadOutput(
        normal(seed + 2, 2, places, 3) * scale,
        torch.cat([corner, corner + size], -1),
        normal(seed + 3, 2, places, 4, 5),
    )


@quick
@given(seeds)
@pytest.mark.parametrize('boxes', ['distribution', 'giou'])
@pytest.mark.parametrize('kind', ['sigmoid', 'softmax'])
def test_the_order_of_positions_does_not_matter(
    boxes: Any, kind: Any, seed: int
) -> None:
    student, teacher = dense(seed), dense(seed + 10)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    loss = SoftOutputKD(activation=kind, boxes=boxes)
    mixed = [
        HeadOutput(*(part[:, order] for part in d[:3])) for d in (student, teacher)
    ]
    assert value(loss, mixed[:1], mixed[1:]) == about(value(loss, [student], [teacher]))


@quick
@given(seeds, st.integers(1, 300))
def test_background_that_both_see_adds_nothing(seed: int, places: int) -> None:
    student, teacher = dense(seed), dense(seed + 10)
    empty = HeadOutput(
        torch.full((2, places, 3), -60.0),
        torch.zeros(2, places, 4),
        torch.zeros(2, places, 4, 5),
    )
    loss = SoftOutputKD()
    larger = [
        HeadOutput(*(torch.cat([a, b], 1) for a, b in zip(d[:3], empty[:3])))
        for d in (student, teacher)
    ]
    assert value(loss, larger[:1], larger[1:]) == about(
        value(loss, [student], [teacher])
    )


@quick
@given(seeds, st.floats(1.0, 3.0))
def test_quality_bce_falls_towards_the_teacher(seed: int, beta: float) -> None:
    student, teacher = normal(seed, 50) * 4, normal(seed + 1, 50) * 4
    steps = torch.linspace(0, 1, 9)[:, None]
    way = MF.quality_bce(
        student + steps * (teacher - student), teacher.expand(9, 50), beta
    )
    assert (way.diff(dim=0) <= 1e-5).all()


@quick
@given(seeds)
def test_distances_of_boxes_are_invariant_to_the_unit(seed: int) -> None:
    ours, theirs = dense(seed).boxes, dense(seed + 5).boxes
    assert ours is not None and theirs is not None
    distance = MF.giou_distance(ours, theirs)
    assert ((distance >= 0) & (distance <= 2)).all()
    moved = MF.giou_distance(ours * 3 + 100, theirs * 3 + 100)
    assert torch.allclose(distance, moved, atol=1e-3)
    assert torch.allclose(distance, MF.giou_distance(theirs, ours))
    assert MF.giou_distance(ours, ours).abs().max() < 1e-5
