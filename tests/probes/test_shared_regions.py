"""Both second stages on the proposals of student, teacher, or both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from mkd_det.errors import ConfigError, HeadKindError, MkdError, TapNotFoundError
from mkd_det.heads.proposals import proposals_of, sample_proposals


def distiller(
    student: dict[str, Any],
    teacher: dict[str, Any],
    file: Path | None = None,
    tap: str = 'roi_head.bbox_roi_extractor:call',
    **settings: Any,
) -> Any:
    shared = dict(type='SharedRegions', student='rois', teacher='t.fpn')
    term = dict(type='ProposalKD', student='shared.student', teacher='shared.teacher')
    return tiny.build(
        tiny.distiller(
            student,
            teacher,
            file,
            taps=dict(fpn='neck', rois=tap),
            adapters=dict(shared={**shared, **settings}),
            branches={},
            terms=dict(loss_it=term),
        )
    )


def step(model: Any, **batch: Any) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the losses of a step, and how many regions each side has been run on."""
    seen: dict[str, int] = {}
    node = model.plan.adapters['shared']
    run = node.adapter.forward

    def watched(*sides: Any, **more: Any) -> Any:
        output = run(*sides, **more)
        seen.update(own=len(sides[0][0][-1]), run=len(output.teacher[0][0]))
        assert len(output.student[0][0]) == seen['run']
        assert torch.equal(output.student[0][2], output.teacher[0][2])
        return output

    node.adapter.forward = watched
    data = model.data_preprocessor(tiny.batch(**batch), True)
    found = model(**data, mode='loss')
    return {k: v for k, v in found.items() if k.startswith('loss_it')}, seen


@pytest.mark.parametrize('proposals', ['student', 'teacher', 'union'])
def test_whose_proposals_are_run_is_a_setting(proposals: str) -> None:
    model = distiller(
        tiny.faster_rcnn(4, 8), tiny.faster_rcnn(8, 16), proposals=proposals
    ).train()
    found, seen = step(model)
    if proposals == 'student':
        assert seen['run'] == seen['own']
    else:
        base = seen['own'] if proposals == 'union' else 0
        assert base < seen['run'] <= base + seen['own']
    for name, value in found.items():
        assert torch.isfinite(value) and value > 0, name
    torch.stack(list(found.values())).sum().backward()
    for part in (model.student.roi_head, model.student.neck, model.student.backbone):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())


@pytest.mark.parametrize('cfg', [tiny.faster_rcnn, tiny.mask_rcnn, tiny.cascade_rcnn])
def test_the_same_model_as_teacher_and_student_gives_0(
    cfg: Callable, tmp_path: Path
) -> None:
    file = tiny.write_checkpoint(cfg(), tmp_path / 't.pth')
    more: dict[str, Any] = {}
    if cfg is tiny.cascade_rcnn:
        more = dict(tap='roi_head.bbox_roi_extractor.1:call', stage=1)
    model = distiller(cfg(), cfg(), file, **more)
    model.load_state_dict(torch.load(file)['state_dict'])
    model.student.eval()  # as the teacher is
    found, _ = step(model, masks=True)
    assert set(found) == {'loss_it_cls', 'loss_it_box'}
    for name, value in found.items():
        assert float(value.detach()) == pytest.approx(0, abs=1e-5), name


def test_proposals_are_those_of_the_detectors_own_prediction() -> None:
    model: Any = tiny.build(tiny.faster_rcnn()).eval()
    batch = model.data_preprocessor(tiny.batch())
    with torch.no_grad():
        features = model.extract_feat(batch['inputs'])
        own = model.rpn_head.predict(features, batch['data_samples'], rescale=False)
        found = proposals_of(model, features, [(64, 64)] * 2)
    for mine, theirs in zip(found, own, strict=True):
        assert len(mine) and torch.equal(mine, theirs.bboxes)


def test_an_image_without_ground_truth_is_no_trouble() -> None:
    model = distiller(tiny.faster_rcnn(4, 8), tiny.faster_rcnn(8, 16)).train()
    found, _ = step(model, boxes=0)
    assert all(torch.isfinite(value) for value in found.values())


def fast_rcnn(*widths: int) -> dict[str, Any]:
    """A teacher without an RPN."""
    cfg = tiny.faster_rcnn(*widths)
    del cfg['rpn_head'], cfg['train_cfg']['rpn'], cfg['train_cfg']['rpn_proposal']
    return {**cfg, 'type': 'FastRCNN', 'test_cfg': dict(rcnn=cfg['test_cfg']['rcnn'])}


@pytest.mark.parametrize(
    'teacher, given, kind, fix',
    [
        (tiny.faster_rcnn, dict(proposals='both'), ConfigError, 'union'),
        (tiny.faster_rcnn, dict(stage=1), ConfigError, 'without stage'),
        (
            tiny.faster_rcnn,
            dict(tap='roi_head.bbox_roi_extractor'),
            MkdError,
            'bbox_roi_extractor:call',
        ),
        (tiny.faster_rcnn, dict(tap='neck:call'), TapNotFoundError, 'extractor:call'),
        (fast_rcnn, {}, HeadKindError, "proposals='student'"),
        (tiny.gfl, {}, HeadKindError, 'FeatureKD on the neck'),
    ],
)
def test_what_does_not_fit_is_told_before_training(
    teacher: Callable, given: dict[str, Any], kind: type[MkdError], fix: str
) -> None:
    with pytest.raises(kind) as caught:
        distiller(tiny.faster_rcnn(4, 8), teacher(8, 16), **given)
    assert fix in str(caught.value)


def test_the_advice_for_a_teacher_without_proposals_works() -> None:
    model = distiller(
        tiny.faster_rcnn(4, 8), fast_rcnn(8, 16), proposals='student'
    ).train()
    assert step(model)[0]['loss_it_cls'] > 0


def test_the_teachers_proposals_are_sampled_as_the_students_are() -> None:
    model: Any = tiny.build(tiny.cascade_rcnn())
    sampler = model.roi_head.bbox_sampler[1]
    sampler.num, sampler.pos_fraction = 8, 0.25
    truth = torch.tensor([[10.0, 10, 40, 40]])
    near = truth + torch.arange(6.0)[:, None]
    far = torch.tensor([[50.0, 50, 60, 60]]) + torch.arange(20.0)[:, None]
    given = torch.cat([near, far])
    labels = torch.zeros(1, dtype=torch.long)
    found = sample_proposals(model, given, truth, labels, stage=1)
    is_near = (found[:, 0] < 20) & (found[:, 0] >= 10)
    # Two of eight are positive; the object itself, of which there may be one, is not
    # a proposal.
    assert 1 <= int(is_near.sum()) <= 2 and len(found) in (7, 8)
    assert all(bool((row == given).all(1).any()) for row in found)
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    assert len(sample_proposals(model, given, *nothing, stage=1)) == 8
