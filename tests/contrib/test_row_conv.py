"""Convolutions along rows: their results, and models that use them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import tiny
import tiny_images
from mkd_det.contrib.row_conv import row_conv, to_rows, to_square
from mkd_det.errors import ConfigError


@pytest.mark.parametrize(
    'options',
    [
        dict(kernel_size=3, padding=1),
        dict(kernel_size=3, padding=1, stride=2),
        dict(kernel_size=7, padding=3, stride=2, bias=False),
        dict(kernel_size=3, padding=2, dilation=2),
        dict(kernel_size=3, padding='same'),
        dict(kernel_size=3, padding=1, groups=2, padding_mode='reflect'),
    ],
)
@pytest.mark.parametrize('side', [(8, 8), (7, 10)])
def test_it_is_the_square_convolution_whose_other_rows_are_zero(
    options: dict, side: tuple[int, int]
) -> None:
    row, square = row_conv(4, 6, **options), nn.Conv2d(4, 6, **options)
    with torch.no_grad():
        weight = torch.zeros_like(square.weight)
        middle = weight.shape[2] // 2
        weight[:, :, middle] = square.weight[:, :, middle]
        square.weight.copy_(weight)
    row.load_state_dict(square.state_dict())
    assert row.weight.shape == (6, 4 // options.get('groups', 1), 1, weight.shape[3])
    images = torch.randn(2, 4, *side)
    torch.testing.assert_close(row(images), square(images))


def test_numbers_by_hand() -> None:
    row = row_conv(1, 1, 3, padding=1, bias=False)
    row.load_state_dict({'weight': torch.arange(9.0).reshape(1, 1, 3, 3)})
    image = torch.tensor([[[[1.0, 0, 2], [0, 1, 0]]]])
    # 3 a + 4 b + 5 c of each place and its neighbours to the left and right.
    expected = torch.tensor([[[[4.0, 13, 8], [5, 4, 3]]]])
    assert torch.equal(row(image), expected)


def test_1x1_kernels_are_not_converted() -> None:
    conv = row_conv(4, 8, 1, stride=2)
    assert conv.kernel_size == (1, 1) and conv.stride == (2, 2)


@pytest.mark.parametrize(
    'options',
    [
        dict(kernel_size=2),
        dict(kernel_size=3),
        dict(kernel_size=(3, 5), padding=(1, 2)),
    ],
)
def test_kernels_that_change_the_size_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match='RowConv'):
        row_conv(4, 4, **options)


def detector(**more: object) -> dict:
    return dict(type='RowModel', model=tiny.gfl(), **more)


def test_a_detector_keeps_its_class_and_keys_and_trains() -> None:
    plain, model = tiny.build(tiny.gfl()), tiny.build(detector())
    assert type(model) is type(plain)
    ours, theirs = model.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs)
    other = {key for key in ours if ours[key].shape != theirs[key].shape}
    # All but 1x1 kernels of the backbone, and nothing else.
    assert other and all(key.startswith('backbone.') for key in other)
    assert all(ours[key].shape[2] == 1 and theirs[key].shape[2] > 1 for key in other)
    data = model.data_preprocessor(tiny.batch(), True)
    losses = model(**data, mode='loss')
    sum(sum(v) if isinstance(v, list) else v for v in losses.values()).backward()
    assert all(p.grad is not None for p in model.backbone.parameters())


def test_a_part_of_the_backbone_gives_a_mixed_model() -> None:
    model = tiny_images.build(
        dict(
            type='RowModel',
            model=tiny_images.classifier(),
            on=['backbone.layer2', 'backbone.layer3'],
        )
    )
    kernels = {
        name: m.kernel_size
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d)
    }
    for name, kernel in kernels.items():
        assert kernel == ((1, 3) if 'layer2' in name or 'layer3' in name else (3, 3))


def test_it_equals_the_square_model_that_its_weights_are_written_into() -> None:
    model = tiny_images.build(
        dict(type='RowModel', model=tiny_images.classifier())
    ).eval()
    square = tiny_images.build(tiny_images.classifier(), seed=1).eval()
    square.load_state_dict(to_square(model.state_dict(), square), strict=True)
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(model(images), square(images))


def test_it_starts_from_the_middle_rows_of_a_trained_model() -> None:
    trained = tiny_images.build(tiny_images.classifier())
    model = tiny_images.build(
        dict(type='RowModel', model=tiny_images.classifier()), seed=1
    )
    model.load_state_dict(trained.state_dict())
    weight = trained.backbone.conv1.weight
    assert torch.equal(model.backbone.conv1.weight, weight[:, :, 1:2])
    assert torch.equal(model.head.weight, trained.head.weight)
    # The same as converting the trained model itself.
    to_rows(trained)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(trained.eval()(images), model.eval()(images))


def test_shared_convolutions_stay_shared() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Module()
    model.levels = nn.ModuleList(nn.Sequential(shared, nn.ReLU()) for _ in range(3))
    assert len(to_rows(model, 'levels')) == 3
    assert {tuple(m[0].kernel_size) for m in model.levels} == {(1, 3)}
    assert len({id(m[0]) for m in model.levels}) == 1


def test_kernels_that_cannot_be_converted_are_named() -> None:
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4))
    with pytest.raises(ConfigError, match=r'backbone\.0: .* 4x4') as info:
        to_rows(model)
    assert 'odd square kernel' in info.value.expected


def test_models_of_mmcv_ask_for_it_by_conv_cfg() -> None:
    cfg = dict(type='mmdet.ResNet', depth=18, conv_cfg=dict(type='RowConv'))
    backbone = MODELS.build(cfg)
    sizes = {m.kernel_size for m in backbone.modules() if isinstance(m, nn.Conv2d)}
    assert sizes == {(1, 7), (1, 3), (1, 1)}
    shapes = [tuple(level.shape[2:]) for level in backbone(torch.randn(1, 3, 64, 96))]
    assert shapes == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize(
    ('on', 'actual'),
    [
        ('backbone.layer9', 'backbone.layer9'),
        ('data_preprocessor', 'DetDataPreprocessor'),
    ],
)
def test_paths_that_cannot_be_converted_are_refused(on: str, actual: str) -> None:
    with pytest.raises(ConfigError) as info:
        tiny.build(detector(on=on))
    assert info.value.actual == actual


def test_square_weights_are_refused_as_a_teachers(tmp_path: Path) -> None:
    """A checkpoint must fit its teacher exactly."""
    from mkd_det.errors import TeacherKeysError
    from mkd_det.teachers.loading import Teacher

    plain = tiny.build(tiny.gfl())
    torch.save(dict(state_dict=plain.state_dict()), tmp_path / 'plain.pth')
    teacher = Teacher.build(
        't', dict(cfg=detector(), checkpoint=str(tmp_path / 'plain.pth'))
    )
    with pytest.raises(TeacherKeysError, match='another shape'):
        teacher.load()
