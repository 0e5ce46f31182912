"""Models that cannot be students are refused with what is possible instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from mkd_det.errors import ConfigError, TapNotFoundError
from mkd_det.teachers.loading import Teacher


def soft_teacher() -> dict[str, Any]:
    """A semi-supervised Faster R-CNN."""
    detector = tiny.faster_rcnn()
    preprocessor = detector['data_preprocessor']
    return dict(
        type='SoftTeacher',
        detector=detector,
        data_preprocessor=dict(
            type='MultiBranchDataPreprocessor', data_preprocessor=preprocessor
        ),
        semi_train_cfg=dict(freeze_teacher=True),
        semi_test_cfg=dict(predict_on='teacher'),
    )


def pair(student: dict[str, Any], teacher: dict[str, Any], tap: str) -> dict[str, Any]:
    term = dict(type='AttentionKD', student='fpn', teacher='t.fpn')
    own = dict(cfg=teacher, checkpoint=None, taps=dict(fpn=tap))
    return dict(
        type='Distiller',
        student=student,
        teachers=dict(t=own),
        taps=dict(fpn='neck'),
        terms=dict(loss_attention=term),
        probe_size=64,
    )


@pytest.mark.parametrize('tap', ['neck', 'student.neck'])
def test_a_semi_supervised_student_is_refused_with_what_is_possible(tap: str) -> None:
    cfg = pair(soft_teacher(), tiny.faster_rcnn(), 'neck')
    cfg['taps'] = dict(fpn=tap)
    with pytest.raises(ConfigError, match='SoftTeacher') as caught:
        tiny.build(cfg)
    assert "prefix='teacher.'" in caught.value.fix
    assert 'detector' in caught.value.fix


def test_what_the_fix_says_is_possible(tmp_path: Path) -> None:
    """A detector learns from the teacher in a semi-supervised checkpoint."""
    semi = tiny.write_checkpoint(soft_teacher(), tmp_path / 'semi.pth')
    cfg = dict(cfg=tiny.faster_rcnn(), checkpoint=str(semi), prefix='teacher.')
    teacher = Teacher.build('t', cfg)
    teacher.load()
    saved = torch.load(semi, weights_only=False)['state_dict']
    own = teacher.model.state_dict()
    assert all(torch.equal(value, saved[f'teacher.{k}']) for k, value in own.items())


def test_a_semi_supervised_teacher_sees_normalised_images() -> None:
    """Its preprocessor holds the one with mean and standard deviation."""
    student = tiny.faster_rcnn()
    student['data_preprocessor'] = {**student['data_preprocessor'], 'std': [1.0] * 3}
    whole = tiny.build(pair(student, soft_teacher(), 'teacher.neck'))
    plain = tiny.build(pair(student, tiny.faster_rcnn(), 'neck'))
    semi, alone = (model.renormalizers['t'] for model in (whole, plain))
    assert torch.equal(semi.scale, alone.scale)
    assert torch.equal(semi.shift, alone.shift)
    assert semi.needed
    losses = whole.train()(
        **whole.data_preprocessor(tiny.batch(), training=True), mode='loss'
    )
    assert torch.isfinite(losses['loss_attention'])


def test_a_semi_supervised_teacher_says_how_to_take_its_detector() -> None:
    with pytest.raises(TapNotFoundError) as caught:
        tiny.build(pair(tiny.faster_rcnn(), soft_teacher(), 'neck'))
    fix = 'teachers=dict(t=dict(cfg=<the `detector` of SoftTeacher>, checkpoint=...,'
    assert fix in caught.value.fix and "prefix='teacher.'" in caught.value.fix


def test_an_init_cfg_beside_the_student_is_refused() -> None:
    cfg = pair(tiny.gfl(), tiny.gfl(), 'neck')
    cfg['init_cfg'] = dict(type='Pretrained', checkpoint='x.pth')
    with pytest.raises(ConfigError, match='would not be read') as caught:
        tiny.build(cfg)
    assert caught.value.fix == 'student=dict(init_cfg=...)'
