"""A teacher sees each image as its own preprocessor would have shown it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmengine.model import BaseDataPreprocessor

import tiny
from mkd_det.errors import PlanError
from mkd_det.teachers.renormalize import Renormalizer

RGB: dict[str, Any] = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
)
PREPROCESSORS: dict[str, dict[str, Any]] = {
    'rgb': RGB,
    'caffe, bgr': dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0]),
    'bgr, scaled': dict(mean=[10.0, 60.0, 200.0], std=[20.0, 50.0, 90.0]),
    'one mean for all': dict(mean=[127.5], std=[127.5], bgr_to_rgb=True),
    'raw': dict(bgr_to_rgb=False),
    'raw rgb': dict(bgr_to_rgb=True),
    'padded with grey': {**RGB, 'pad_value': 114},
}


def preprocessor(name: str, divisor: int = 32) -> DetDataPreprocessor:
    return DetDataPreprocessor(**PREPROCESSORS[name], pad_size_divisor=divisor)


def images() -> dict[str, list]:
    """Two images of unlike size: both are padded, each on another side."""
    first, second = tiny.batch(1, (40, 64), seed=1), tiny.batch(1, (64, 50), seed=2)
    return {key: first[key] + second[key] for key in first}


@pytest.mark.parametrize('teacher', PREPROCESSORS)
@pytest.mark.parametrize('student', PREPROCESSORS)
def test_the_teacher_sees_what_its_own_preprocessor_yields(
    student: str, teacher: str
) -> None:
    ours, theirs = preprocessor(student), preprocessor(teacher)
    batch = ours(images(), training=True)
    before = batch['inputs'].clone()
    renormalizer = Renormalizer(ours, theirs, 't')
    seen = renormalizer(batch['inputs'], batch['data_samples'])
    expected = theirs(images(), training=True)['inputs']
    torch.testing.assert_close(
        seen, expected, rtol=1e-4, atol=1e-4 * expected.abs().max()
    )
    # The student goes on with images of its own.
    assert torch.equal(batch['inputs'], before)
    if student == teacher:
        assert seen is batch['inputs']
        assert str(renormalizer) == 'as the student'
    else:
        assert str(renormalizer) != 'as the student'


def test_padding_of_the_batch_is_the_teachers_padding() -> None:
    """Where the image ends, the teacher's own padding begins, to the pixel."""
    ours, theirs = preprocessor('rgb'), preprocessor('padded with grey')
    batch = ours(images(), training=True)
    seen = Renormalizer(ours, theirs, 't')(batch['inputs'], batch['data_samples'])
    assert (seen[0, :, 40:] == 114).all() and (seen[0, :, :40] != 114).any()
    assert (seen[1, :, :, 50:] == 114).all()
    assert torch.equal(seen[0, :, :40], batch['inputs'][0, :, :40])


def test_a_teacher_that_needs_more_padding_is_told() -> None:
    with pytest.raises(PlanError, match='multiple of 32') as caught:
        Renormalizer(preprocessor('rgb', 16), preprocessor('rgb', 32), 't')
    assert 'pad_size_divisor=32' in caught.value.fix
    Renormalizer(preprocessor('rgb', 64), preprocessor('rgb', 32), 't')


def test_preprocessors_without_statistics_are_taken_as_they_are() -> None:
    plain = BaseDataPreprocessor()
    inputs = torch.randn(2, 3, 8, 8)
    assert Renormalizer(plain, plain, 't')(inputs, None) is inputs
    seen = Renormalizer(plain, preprocessor('bgr, scaled', 1), 't')(inputs, None)
    mean = torch.tensor([10.0, 60.0, 200.0]).view(3, 1, 1)
    std = torch.tensor([20.0, 50.0, 90.0]).view(3, 1, 1)
    torch.testing.assert_close(seen, (inputs - mean) / std)


def test_the_distiller_shows_each_teacher_its_own_images() -> None:
    """In a real step: what arrives at the teacher's first layer."""
    teacher = tiny.gfl(4, 8)
    teacher['data_preprocessor'] = dict(
        type='DetDataPreprocessor', **PREPROCESSORS['caffe, bgr'], pad_size_divisor=32
    )
    model = tiny.build(tiny.distiller(tiny.gfl(4, 8), teacher))
    seen: list[torch.Tensor] = []
    for side in (model.student, model.teachers['t'].model):
        side.backbone.conv1.register_forward_pre_hook(
            lambda _, args: seen.append(args[0])
        )
    model(**model.data_preprocessor(images(), True), mode='loss')
    theirs, ours = seen  # the teacher runs first
    for got, own in ((theirs, preprocessor('caffe, bgr')), (ours, preprocessor('rgb'))):
        expected = own(images(), training=True)['inputs']
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)


def test_teachers_that_see_alike_share_one_batch() -> None:
    def like(name: str) -> dict[str, Any]:
        cfg = tiny.gfl(4, 8)
        cfg['data_preprocessor'] = dict(
            type='DetDataPreprocessor', **PREPROCESSORS[name], pad_size_divisor=32
        )
        return dict(cfg=cfg, checkpoint=None, speed='off')

    names = dict(a='caffe, bgr', b='caffe, bgr', c='raw', d='rgb')
    model = tiny.build(
        dict(
            type='Distiller',
            student=tiny.gfl(4, 8),
            teachers={name: like(kind) for name, kind in names.items()},
            taps=dict(fpn='neck'),
            terms={
                f'loss_{name}': dict(
                    type='AttentionKD', student='fpn', teacher=f'{name}.fpn'
                )
                for name in names
            },
            probe_size=64,
        )
    )
    seen: dict[str, torch.Tensor] = {}
    for name, teacher in model.teachers.items():
        teacher.model.backbone.conv1.register_forward_pre_hook(
            lambda _, args, name=name: seen.__setitem__(name, args[0])
        )
    data = model.data_preprocessor(images(), True)
    model(**data, mode='loss')
    assert seen['a'] is seen['b']
    assert seen['d'] is data['inputs']
    assert not torch.equal(seen['a'], seen['c'])


@pytest.mark.parametrize('student', ['rgb', 'caffe, bgr', 'padded with grey'])
def test_a_gray_teacher_sees_the_luminance(student: str) -> None:
    ours = preprocessor(student)
    theirs = DetDataPreprocessor(mean=[120.0], std=[50.0], pad_size_divisor=32)
    batch = ours(images(), training=True)
    renormalizer = Renormalizer(ours, theirs, 't', (3, 1))
    seen = renormalizer(batch['inputs'], batch['data_samples'])
    assert seen.shape == (2, 1, *batch['inputs'].shape[2:])
    for index, image in enumerate(images()['inputs']):  # BGR, as mmcv loads it
        blue, green, red = image.float()
        gray = (0.299 * red + 0.587 * green + 0.114 * blue - 120) / 50
        height, width = gray.shape
        own = seen[index, 0, :height, :width]
        torch.testing.assert_close(own, gray, rtol=1e-4, atol=1e-4)
        assert not seen[index, 0, height:].any() and not seen[index, 0, :, width:].any()
    assert str(renormalizer) == 'own mean and std, in gray'
    assert renormalizer.key != Renormalizer(ours, theirs, 't').key
