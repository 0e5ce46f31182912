"""What `survey` calls a tap is one, and modules are paired by path, else by stride."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

import tiny
from mkd_det.errors import TapNotFoundError
from mkd_det.heads.running import run_features
from mkd_det.inspection import pair_modules, select, survey
from mkd_det.taps import Tap, capture


def test_modules_are_listed_with_what_keeps_them_from_being_taps() -> None:
    cfg = tiny.gfl()
    cfg['backbone']['frozen_stages'] = 1
    model = tiny.build(cfg)
    before = deepcopy(model.state_dict())
    found = {output.path: output for output in survey(model, (128, 256))}

    neck = found['neck']
    assert (neck.channels, neck.strides) == ((16,) * 5, (8, 16, 32, 64, 128))
    assert neck.shapes[0] == (16, 16, 32) and not neck.note
    head_conv = found['bbox_head.gfl_reg']
    assert head_conv.calls == 5 and head_conv.channels == (68,) * 5
    assert found['bbox_head'].channels == (3,) * 5
    assert found['neck.fpn_convs'].note == 'container, tap neck.fpn_convs.*'
    assert found['bbox_head.loss_cls'].note == 'never called'
    assert found['backbone.layer1'].note.startswith('frozen')
    assert found['backbone.layer2'].note == ''
    assert found['backbone.layer2.0.bn2'].note.startswith('changed in place')
    # The model is as it was.
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize('path', ['neck', 'neck.fpn_convs.2.conv', 'bbox_head.gfl_cls'])
def test_a_module_without_a_note_is_usable_as_a_tap(path: str) -> None:
    model = tiny.build(tiny.gfl())
    output = next(o for o in survey(model, (64, 64)) if o.path == path)
    with capture(model, {'tap': Tap.parse(path)}, need_grad=True) as seen:
        run_features(model, torch.randn(1, 3, 64, 64))
    assert not output.note
    assert [tuple(t.shape[1:]) for t in seen['tap']] == output.shapes


def test_the_second_stage_is_listed() -> None:
    found = {o.path: o for o in survey(tiny.build(tiny.faster_rcnn()), (64, 64))}
    classes = found['roi_head.bbox_head.fc_cls']
    assert (classes.calls, classes.channels, classes.strides) == (1, (4,), (None,))
    assert classes.note == 'of regions, for a student only'
    assert found['roi_head.bbox_head.loss_cls'].note == 'yields no levels'
    assert found['rpn_head'].calls == 1


def test_modules_are_paired_by_path_and_else_by_stride() -> None:
    student = survey(tiny.build(tiny.gfl()), (128, 128))
    teacher = survey(tiny.build(tiny.retinanet(16, 24)), (128, 128))
    pairs = {pair.student.path: pair for pair in pair_modules(student, teacher)}
    neck = pairs['neck']
    assert neck.same_path and not neck.same_channels and neck.teacher is not None
    assert (neck.teacher.path, neck.teacher.channels) == ('neck', (24,) * 5)
    head = pairs['bbox_head.gfl_cls']
    assert not head.same_path and head.teacher is not None
    assert head.teacher.strides == (8, 16, 32, 64, 128)
    assert head.teacher.path.startswith('bbox_head')
    assert 'neck.fpn_convs' not in pairs


def test_entries_are_selected_by_depth_or_pattern() -> None:
    outputs = survey(tiny.build(tiny.gfl()), (64, 64))
    assert {o.depth for o in select(outputs, 1, None)} == {1}
    assert {o.path.split('.')[0] for o in select(outputs, 1, 'neck*')} == {'neck'}
    with pytest.raises(TapNotFoundError) as caught:
        select(outputs, 1, 'nekc')
    assert caught.value.available[0] == 'neck'
