"""Promises of the guidance layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mkd_det.adapters import Adapter
from mkd_det.adapters.guidance import GuidanceLayer, round8
from mkd_det.errors import ConfigError, ShapeMismatchError
from mkd_det.registry import ADAPTERS, build_component
from mkd_det.structures import LevelSpec


def specs(*channels: int) -> list[LevelSpec]:
    """Return level specs of strides 8, 16, ..."""
    return [LevelSpec(c, 8 * 2**i, (8 >> i, 8 >> i)) for i, c in enumerate(channels)]


def maps(*channels: int, n: int = 2, size: int = 8) -> list[Tensor]:
    """Return one map per number of channels, each half as large as the one before."""
    return [torch.randn(n, c, size >> i, size >> i) for i, c in enumerate(channels)]


def test_it_is_built_from_a_config() -> None:
    layer = build_component(
        ADAPTERS,
        dict(type='GuidanceLayer', width=16),
        'adapter guide',
        student=specs(8),
        teacher=specs(32),
    )
    assert isinstance(layer, GuidanceLayer) and isinstance(layer, Adapter)
    with pytest.raises(ConfigError, match='width'):
        build_component(
            ADAPTERS,
            dict(type='GuidanceLayer', widht=16),
            'adapter guide',
            student=specs(8),
            teacher=specs(32),
        )


@pytest.mark.parametrize(
    'channels, width',
    [(64, 64), (1, 8), (11.9, 8), (12, 16), (90.5, 88), (0.5, 8)],
)
def test_widths_are_multiples_of_8(channels: float, width: int) -> None:
    assert round8(channels) == width


def test_both_sides_have_equal_width_at_every_level() -> None:
    layer = GuidanceLayer(specs(16, 32), specs(64, 200))
    out = layer(maps(16, 32), maps(64, 200))
    # sqrt(16 * 64) = 32; sqrt(32 * 200) = 80
    for side in (out.student, out.teacher):
        assert [tuple(x.shape) for x in side] == [(2, 32, 8, 8), (2, 80, 4, 4)]
    assert set(out.losses) == {'reconstruction'}
    out = GuidanceLayer(specs(16, 32), specs(64, 200), width=24)(
        maps(16, 32), maps(64, 200)
    )
    assert {x.shape[1] for x in out.student + out.teacher} == {24}


def test_maps_of_different_size_keep_their_sizes() -> None:
    out = GuidanceLayer(specs(8), specs(8))(maps(8, size=8), maps(8, size=16))
    assert out.student[0].shape[-1] == 8 and out.teacher[0].shape[-1] == 16


@pytest.mark.parametrize('shape', [(1, 24), (5, 24), (1, 7, 24), (3, 7, 24)])
@pytest.mark.parametrize('teacher_side', [True, False])
def test_vectors_and_tokens_keep_their_shape(
    shape: tuple[int, ...], teacher_side: bool
) -> None:
    spec = [LevelSpec(24, None, ())]
    layer = GuidanceLayer(spec, spec, teacher_side=teacher_side)
    student = torch.randn(*shape, requires_grad=True)
    out = layer([student], [torch.randn(*shape)])
    assert out.student[0].shape == shape and out.teacher[0].shape == shape
    out.student[0].square().sum().backward()
    assert student.grad is not None and student.grad.abs().sum() > 0


def test_tokens_are_adapted_one_by_one() -> None:
    spec = [LevelSpec(16, None, ())]
    layer = GuidanceLayer(spec, spec)
    tokens = torch.randn(2, 5, 16)
    code = layer([tokens], [tokens]).teacher[0]
    one = layer([tokens], [tokens[:, 3]]).teacher[0]
    assert torch.allclose(code[:, 3], one, atol=1e-6)


@pytest.mark.parametrize('train', [True, False])
def test_batch_1_and_1x1_maps_work(train: bool) -> None:
    layer = GuidanceLayer(specs(3), specs(5)).train(train)
    out = layer([torch.randn(1, 3, 1, 1)], [torch.randn(1, 5, 1, 1)])
    assert all(x.isfinite().all() for x in out.student + out.teacher)
    # A norm over one value alone would have made it a constant.
    other = layer([torch.randn(1, 3, 1, 1)], [torch.randn(1, 5, 1, 1)])
    assert not torch.allclose(out.student[0], other.student[0])


@pytest.mark.parametrize('width', [2, 3, 7, 9, 12, 25, 27, 40])
def test_any_width_works(width: int) -> None:
    layer = GuidanceLayer(specs(4), specs(6), width=width)
    out = layer([torch.randn(1, 4, 1, 1)], [torch.randn(1, 6, 1, 1)])
    assert out.student[0].shape == out.teacher[0].shape == (1, width, 1, 1)


def test_an_image_does_not_depend_on_the_others_of_its_batch() -> None:
    layer = GuidanceLayer(specs(8), specs(8))
    student, teacher = maps(8, n=3), maps(8, n=3)
    all_three = layer(student, teacher).student[0]
    first = layer([student[0][:1]], [teacher[0][:1]]).student[0]
    assert torch.allclose(all_three[:1], first, atol=1e-6)


def test_matching_does_not_train_the_teachers_side() -> None:
    layer = GuidanceLayer(specs(8, 8), specs(16, 16))
    out = layer(maps(8, 8), maps(16, 16))
    assert not any(x.requires_grad for x in out.teacher)
    sum((s - t).square().sum() for s, t in zip(out.student, out.teacher)).backward()
    moved = {
        name.split('.')[0] for name, p in layer.named_parameters() if p.grad is not None
    }
    assert moved == {'student_side'}


def test_reconstruction_trains_the_teachers_side_only() -> None:
    layer = GuidanceLayer(specs(8), specs(16))
    student, teacher = maps(8)[0].requires_grad_(), maps(16)[0].requires_grad_()
    layer([student], [teacher]).losses['reconstruction'].backward()
    moved = {
        name.split('.')[0] for name, p in layer.named_parameters() if p.grad is not None
    }
    assert moved == {'encoders', 'decoders'}
    assert student.grad is None and teacher.grad is None


def test_every_parameter_has_a_gradient_from_all_that_it_yields() -> None:
    for kwargs in ({}, dict(reconstruction=0.0), dict(teacher_side=False)):
        layer = GuidanceLayer(specs(8, 8), specs(16, 32), **kwargs)
        out = layer(maps(8, 8), maps(16, 32))
        (sum(x.sum() for x in out.student) + sum(out.losses.values())).backward()
        for name, parameter in layer.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name


def test_reconstruction_is_the_relative_squared_error() -> None:
    layer = GuidanceLayer(specs(8), specs(2), width=2, reconstruction=3.0)
    encoder, decoder = layer.encoders[0], layer.decoders[0]
    with torch.no_grad():
        encoder.weight.copy_(torch.eye(2)[..., None, None])
        # Twice the first channel, nothing of the second.
        decoder.weight.copy_(torch.diag(torch.tensor([2.0, 0.0]))[..., None, None])
    teacher = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)
    out = layer([torch.randn(1, 8, 1, 1)], [teacher])
    # ((6 - 3)^2 + (0 - 4)^2) / (3^2 + 4^2) = 1
    assert out.losses['reconstruction'].item() == pytest.approx(3.0)


def test_reconstruction_is_learned_from_every_second_row_and_column() -> None:
    layer = GuidanceLayer(specs(8), specs(16))
    student, teacher = maps(8), maps(16)
    sparse = [teacher[0][:, :, ::2, ::2]]
    every = GuidanceLayer(specs(8), specs(16), stride=1)
    every.load_state_dict(layer.state_dict())
    expected = every(student, sparse).losses['reconstruction']
    assert torch.equal(layer(student, teacher).losses['reconstruction'], expected)
    assert layer(student, teacher).teacher[0].shape[2:] == teacher[0].shape[2:]


def test_it_starts_as_a_projection() -> None:
    wide = GuidanceLayer(specs(8), specs(16), width=16)
    teacher = maps(16)
    out = wide(maps(8), teacher)
    # Nothing is lost where the space is wide enough, and angles are kept.
    assert out.losses['reconstruction'].item() == pytest.approx(0, abs=1e-6)
    assert torch.allclose(
        out.teacher[0].square().sum(1), teacher[0].square().sum(1), rtol=1e-4
    )
    narrow = GuidanceLayer(specs(8), specs(16), width=8)(maps(8), teacher)
    assert 0.2 < narrow.losses['reconstruction'].item() < 0.8


def test_reconstruction_can_be_learned() -> None:
    torch.manual_seed(1)
    layer = GuidanceLayer(specs(8), specs(16), width=8)
    # A teacher that lives in 4 dimensions fits into 8.
    basis = torch.randn(16, 4)
    teacher = [torch.einsum('dc,nchw->ndhw', basis, torch.randn(4, 4, 8, 8))]
    optimizer = torch.optim.Adam(layer.parameters(), 0.02)
    values = []
    for _ in range(60):
        loss = layer(maps(8, n=4), teacher).losses['reconstruction']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.05 < 0.2 < values[0]


def test_without_a_teacher_side_the_student_reaches_the_teachers_width() -> None:
    layer = GuidanceLayer(specs(8), specs(20), teacher_side=False)
    teacher = maps(20)
    out = layer(maps(8), teacher)
    assert out.student[0].shape == teacher[0].shape
    assert torch.equal(out.teacher[0], teacher[0])
    assert out.losses == {}
    assert not any('coder' in name for name, _ in layer.named_parameters())


def test_zero_reconstruction_leaves_a_fixed_projection() -> None:
    layer = GuidanceLayer(specs(8), specs(16), reconstruction=0.0)
    out = layer(maps(8), maps(16))
    assert out.losses == {} and len(layer.decoders) == 0
    assert not any(p.requires_grad for p in layer.encoders.parameters())
    # It still travels with the checkpoint.
    assert any(key.startswith('encoders') for key in layer.state_dict())


def test_other_numbers_of_levels_are_an_error_that_lists_them() -> None:
    with pytest.raises(ShapeMismatchError) as info:
        GuidanceLayer(specs(8), specs(16, 32))
    assert info.value.expected == '2 levels: 16/8 32/16'
    assert info.value.actual == '1 levels: 8/8'
    assert 'one path per level' in info.value.fix


@pytest.mark.parametrize(
    'bad',
    [dict(width=1), dict(width=-8), dict(reconstruction=-1), dict(stride=0)],
)
def test_impossible_arguments(bad: dict) -> None:
    with pytest.raises(ConfigError):
        GuidanceLayer(specs(8), specs(8), **bad)


def test_reconstruction_is_float32_under_autocast() -> None:
    layer = GuidanceLayer(specs(8), specs(16))
    student, teacher = maps(8), maps(16)
    exact = layer(student, teacher).losses['reconstruction'].item()
    with torch.autocast('cpu', torch.bfloat16):
        half = layer(student, teacher)
    assert half.losses['reconstruction'].dtype is torch.float32
    assert half.losses['reconstruction'].item() == pytest.approx(exact, rel=0.05)
    half.losses['reconstruction'].backward()
    assert all(e.weight.grad.abs().sum() > 0 for e in layer.encoders)


def test_a_teacher_of_zeros_is_finite() -> None:
    layer = GuidanceLayer(specs(8), specs(16))
    loss = layer(maps(8), [torch.zeros(2, 16, 8, 8)]).losses['reconstruction']
    loss.backward()
    grads = [p.grad for p in layer.parameters() if p.grad is not None]
    assert loss.isfinite() and all(grad.isfinite().all() for grad in grads)


def test_parameters_come_in_the_same_order_every_time() -> None:
    one, two = (GuidanceLayer(specs(8, 16), specs(16, 32)) for _ in range(2))
    names = [[name for name, _ in layer.named_parameters()] for layer in (one, two)]
    assert names[0] == names[1] and len(names[0]) == 2 * (1 + 2 + 2 + 2 + 2)


def test_it_keeps_no_running_statistics() -> None:
    layer = GuidanceLayer(specs(8), specs(16))
    assert not list(layer.buffers())
