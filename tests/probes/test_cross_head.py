"""The student's features through the rest of the teacher's head."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

import tiny
from mkd_det.errors import (
    ConfigError,
    HeadKindError,
    MkdError,
    ShapeMismatchError,
    TapNotFoundError,
)
from mkd_det.heads.running import run_features
from mkd_det.probes.cross_head import RestOfHead, restyled
from mkd_det.taps import Tap, capture

HEADS = [tiny.gfl, tiny.retinanet, tiny.fcos, tiny.atss, tiny.rtmdet]


def inner(layer: int) -> list[str]:
    return [f'bbox_head.{branch}_convs.{layer}' for branch in ('cls', 'reg')]


def crossed(student: dict, teacher: dict, file: Any = None, **more: Any) -> dict:
    """Config with features after the first layer of each branch crossing over."""
    adapter = dict(type='CrossHead', student='inner', teacher='t.inner')
    parts: dict[str, Any] = dict(
        taps=dict(inner=inner(0), head='bbox_head'),
        adapters=dict(cross={**adapter, **more.pop('cross', {})}),
        branches={},
        terms=dict(
            loss_cross=dict(
                type='SoftOutputKD', student='cross.student', teacher='t.head'
            )
        ),
    )
    return tiny.distiller(student, teacher, file, **{**parts, **more})


def losses_of(model: Any) -> dict[str, Any]:
    return model(**model.data_preprocessor(tiny.batch(), True), mode='loss')


@pytest.mark.parametrize('detector', HEADS)
def test_the_teachers_own_features_give_what_the_teacher_says(
    detector: Any, tmp_path: Path
) -> None:
    """Bit for bit, whatever the head does with strides and scales."""
    teacher = detector(8, 16, 2)
    file = tiny.write_checkpoint(teacher, tmp_path / 't.pth')
    cfg = crossed(teacher, teacher, file, cross=dict(standardise=False))
    layers = inner(0)
    if detector is tiny.rtmdet:
        layers = [f'bbox_head.{branch}_convs.*.0' for branch in ('cls', 'reg')]
    cfg['taps']['inner'] = layers
    model = tiny.build(cfg)
    whole = model.teachers['t'].model
    taps = {'inner': Tap.parse(layers), 'head': Tap.parse('bbox_head')}
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), capture(whole, taps) as seen:
        run_features(whole, image)
    found = model.adapters['cross'](seen['inner'], seen['inner']).student
    assert len(found) == len(seen['head']) == 5
    for ours, theirs in zip(found, seen['head'], strict=True):
        assert len(ours) == len(theirs) >= 2
        assert all(map(torch.equal, ours, theirs))


def test_the_teacher_passes_the_gradient_and_learns_nothing(tmp_path: Path) -> None:
    teacher, student = tiny.gfl(8, 16, 2), tiny.gfl(4, 8, 1)
    file = tiny.write_checkpoint(teacher, tmp_path / 't.pth')
    model = tiny.build(crossed(student, teacher, file))
    whole = model.teachers['t'].model
    before = copy.deepcopy(whole.state_dict())
    losses = losses_of(model)
    parts = {k: v for k, v in losses.items() if k.startswith('loss_cross')}
    assert set(parts) == {'loss_cross_cls', 'loss_cross_box'}
    torch.stack(list(parts.values())).sum().backward()
    head = model.student.bbox_head
    layer = model.student.backbone.layer2[0].downsample
    reached = [head.cls_convs[0], head.reg_convs[0], layer]
    for module in (*reached, model.adapters['cross'].aligners[0]):
        assert all(p.grad.abs().sum() > 0 for p in module.parameters())
    # What comes after the crossing is for the labels alone.
    assert all(p.grad is None for p in head.gfl_cls.parameters())
    assert all(p.grad is None for p in whole.parameters())
    after = whole.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_teacher_stays_outside_and_copies_share_it(tmp_path: Path) -> None:
    teacher, student = tiny.gfl(8, 16, 2), tiny.gfl(4, 8, 1)
    model = tiny.build(crossed(student, teacher))
    theirs = {id(p) for p in model.teachers['t'].model.parameters()}
    assert not theirs & {id(p) for p in model.parameters()}
    assert list(model.state_dict()) == list(tiny.build(student).state_dict())
    twin = copy.deepcopy(model)
    assert twin.adapters['cross'].head is model.adapters['cross'].head


def test_numbers_of_the_restyling_by_hand() -> None:
    student = torch.tensor([0.0, 2.0, 4.0, 6.0]).reshape(1, 1, 2, 2)
    teacher = torch.tensor([10.0, 10.0, 12.0, 12.0]).reshape(1, 1, 2, 2)
    # Means 3 and 11, spreads sqrt(5) and 1.
    wanted = 11 + (student - 3) / 5**0.5
    torch.testing.assert_close(restyled(student, teacher), wanted.clamp_min(10))
    # Nothing is less than the teacher's least: here it is cut at -1, of -1.34.
    assert wanted.min() < 10
    low = restyled(student, teacher - 11)
    assert low[0, 0, 0, 0] == -1 and low[0, 0, 1, 1] > 1


def test_a_channel_that_is_seldom_active_has_a_gradient_in_half_precision() -> None:
    student = torch.zeros(2, 1, 32, 32, dtype=torch.half)
    student.flatten()[:4] = torch.tensor([0.1, 0.05, 0.1, 0.2])
    student.requires_grad_()
    teacher = torch.linspace(0, 3, 2048).reshape(2, 1, 32, 32).half()
    # Where mmengine's scaler begins.
    (restyled(student, teacher).square().mean() * 2.0**16).backward()
    assert student.grad is not None and student.grad.isfinite().all()
    assert student.grad.abs().max() > 0


@pytest.mark.parametrize('teacher_convs, at', [(3, 1), (3, 2)])
def test_the_teacher_may_be_entered_elsewhere(teacher_convs: int, at: int) -> None:
    teacher, student = tiny.gfl(8, 16, teacher_convs), tiny.gfl(4, 8, 1)
    cfg = crossed(student, teacher)
    cfg['teachers']['t']['taps'] = dict(inner=inner(at))
    model = tiny.build(cfg)
    view = model.adapters['cross']._rest.view
    kinds = [type(layer).__name__ for layer in view.cls_convs]
    kept = ['ConvModule'] * (teacher_convs - at - 1)
    assert kinds == ['Identity'] * at + ['_Entry'] + kept
    assert losses_of(model)['loss_cross_cls'] > 0


def test_a_memory_that_does_not_grow() -> None:
    """Entries keep no features from one step to the next."""
    model = tiny.build(crossed(tiny.gfl(4, 8, 1), tiny.gfl(8, 16, 2)))
    losses_of(model)
    rest = model.adapters['cross']._rest
    assert [entry.levels for entry in rest.entries] == [[], []]
    broken = [torch.zeros(1, 3, 2, 2)] * 10  # of other channels
    with pytest.raises(RuntimeError):
        rest(broken)
    assert [entry.levels for entry in rest.entries] == [[], []]


def fails(cfg: dict) -> MkdError:
    with pytest.raises(MkdError) as caught:
        tiny.build(cfg)
    return caught.value


def test_what_does_not_fit_is_told_before_the_first_step() -> None:
    student, teacher = tiny.gfl(4, 8, 1), tiny.gfl(8, 16, 2)
    neck = crossed(student, teacher)
    neck['taps']['inner'] = 'neck'
    error = fails(neck)
    assert isinstance(error, HeadKindError) and 'bbox_head' in error.available
    one = crossed(student, teacher)
    one['teachers']['t']['taps'] = dict(inner=inner(0)[0])
    error = fails(one)
    assert isinstance(error, ShapeMismatchError) and '5 levels' in str(error)
    last = crossed(student, teacher)
    last['teachers']['t']['taps'] = dict(
        inner=['bbox_head.gfl_cls', 'bbox_head.gfl_reg']
    )
    error = fails(last)
    assert isinstance(error, TapNotFoundError) and 'cls_convs' in str(error.available)
    other = crossed(student, teacher)
    other['terms']['loss_cross']['teacher'] = 'cross.teacher'
    error = fails(other)
    assert isinstance(error, ConfigError) and 'cross.student' in error.fix
    branch = crossed(student, teacher)
    branch['taps']['inner'] = inner(0)[0]
    error = fails(branch)
    assert isinstance(error, HeadKindError) and 'every branch' in str(error)
    before = crossed(student, teacher)
    before['taps']['inner'] = [f'{path}:in' for path in inner(0)]
    assert isinstance(fails(before), TapNotFoundError)
    missing = crossed(student, teacher)
    missing['taps']['inner'] = inner(2)
    assert 'bbox_head.cls_convs.0' in str(fails(missing))


def test_half_precision_is_finite(tmp_path: Path) -> None:
    model = tiny.build(crossed(tiny.gfl(4, 8, 1), tiny.gfl(8, 16, 2)))
    with torch.autocast('cpu', torch.bfloat16):
        losses = losses_of(model)
    parts: list[Tensor] = [v for k, v in losses.items() if k.startswith('loss_cross')]
    assert all(part.isfinite() for part in parts)
    sum(parts).backward()


def test_a_head_with_other_layers_on_every_level_is_refused() -> None:
    """As SSD's, whose levels also have other widths."""
    head = MODELS.build(
        dict(
            type='SSDHead',
            num_classes=3,
            in_channels=(8, 16),
            anchor_generator=dict(
                type='SSDAnchorGenerator',
                scale_major=False,
                input_size=64,
                basesize_ratio_range=(0.15, 0.9),
                strides=[8, 16],
                ratios=[[2], [2]],
            ),
        )
    )
    teacher = nn.ModuleDict(dict(bbox_head=head))
    paths = ['bbox_head.cls_convs.0.0', 'bbox_head.reg_convs.0.0']
    with pytest.raises(HeadKindError, match="rest of the teacher's head"):
        RestOfHead(teacher, paths, 'adapter').check([(8, 8), (4, 4)], 'adapter')
