"""Images without labels: terms read them, the student's own loss does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor, nn

import plans
import tiny
from mkd_det.distiller import images
from mkd_det.distiller.images import Images
from mkd_det.distiller.model import Distiller
from mkd_det.errors import ConfigError, PlanError

SOFT = dict(type='SoftOutputKD', student='head', teacher='t.head')
FGD = dict(type='FGD', student='fpn', teacher='t.fpn')
SAME_WIDTH = tiny.gfl(4, 16)


def batch(images: int, unlabelled: tuple[int, ...], **more: Any) -> dict[str, Any]:
    """A batch in which some images have no labels."""
    data = tiny.batch(images, **more)
    for index in unlabelled:
        sample = data['data_samples'][index]
        sample.set_metainfo(dict(unlabeled=True))
        sample.gt_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
    return data


def part(data: dict[str, Any], indices: list[int]) -> dict[str, Any]:
    return {key: [values[i] for i in indices] for key, values in data.items()}


def losses(model: Distiller, data: dict[str, Any]) -> dict[str, Any]:
    model.train()
    freeze_norms(model)
    return model(**model.data_preprocessor(data, True), mode='loss')


def freeze_norms(model: BaseModel) -> None:
    """Let images not influence each other, so that batches can be compared."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


def task(found: dict[str, Any]) -> dict[str, Tensor]:
    own = {n: v for n, v in found.items() if n not in found.origins}  # type: ignore
    return {
        name: torch.stack([v.mean() for v in value]).sum()
        if isinstance(value, list)
        else value
        for name, value in own.items()
        if 'loss' in name
    }


def backward(model: Distiller, data: dict[str, Any]) -> None:
    model.train()
    model.zero_grad()
    found = model(**model.data_preprocessor(data, True), mode='loss')
    total, _ = model.parse_losses(found)
    total.backward()


@pytest.mark.parametrize(
    'student', [tiny.gfl, tiny.retinanet, tiny.fcos, tiny.rtmdet, tiny.detr]
)
def test_the_own_loss_counts_labelled_images_only(student: Any) -> None:
    model = plans.build(student(4, 8), terms=dict(loss_attention=plans.ATTENTION))
    mixed = batch(3, (1,))
    found = losses(model, mixed)
    alone = losses(model, part(mixed, [0, 2]))
    ours, theirs = task(found), task(alone)
    assert ours.keys() == theirs.keys() and len(ours) >= 2
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, msg=name)
    assert found['stat_labelled'] == 2 and found['stat_unlabelled'] == 1


@pytest.mark.parametrize('student', [tiny.gfl, tiny.detr])
def test_terms_read_all_images(student: Any) -> None:
    """Attention is a mean over images, so the whole is the mean of the parts."""
    model = plans.build(student(4, 8), terms=dict(loss_attention=plans.ATTENTION))
    mixed = batch(4, (1, 3))
    whole = losses(model, mixed)['loss_attention']
    each = [losses(model, part(mixed, [i]))['loss_attention'] for i in range(4)]
    torch.testing.assert_close(whole, torch.stack(each).mean())


def test_once_images_had_no_labels_every_step_is_counted() -> None:
    model = plans.build(terms=dict(loss_soft=SOFT))
    assert 'stat_labelled' not in losses(model, batch(2, ()))
    losses(model, batch(2, (1,)))
    found = losses(model, batch(2, ()))
    assert (found['stat_labelled'], found['stat_unlabelled']) == (2, 0)


def test_boxes_of_a_teacher_that_no_term_asks_for_are_told() -> None:
    model = plans.build(terms=dict(loss_soft=SOFT), unlabeled=dict(truth='t.head'))
    assert any('truth has no effect' in note for note in model.plan.notes)


def test_the_order_of_a_batch_has_no_effect() -> None:
    model = plans.build(terms=dict(loss_soft=SOFT))
    data = batch(4, (0, 2))
    first, second = losses(model, data), losses(model, part(data, [3, 0, 1, 2]))
    for name in ('loss_soft_cls', 'loss_soft_box'):
        torch.testing.assert_close(first[name], second[name])


def test_a_weight_for_unlabelled_images() -> None:
    """Two of weight 1, two of 0.5: (2 * a + 1 * b) / 3."""
    terms = dict(loss_attention=plans.ATTENTION)
    model = plans.build(terms=terms, unlabeled=dict(weight=0.5))
    mixed = batch(4, (1, 3))
    whole = losses(model, mixed)['loss_attention']
    labelled = losses(model, part(mixed, [0, 2]))['loss_attention']
    others = losses(model, part(mixed, [1, 3]))['loss_attention'] / 0.5
    torch.testing.assert_close(whole, (2 * labelled + others) / 3)


def test_weight_zero_is_training_without_them() -> None:
    terms = dict(loss_attention=plans.ATTENTION)
    model = plans.build(terms=terms, unlabeled=dict(weight=0.0))
    mixed = batch(3, (1,))
    found, alone = losses(model, mixed), losses(model, part(mixed, [0, 2]))
    torch.testing.assert_close(found['loss_attention'], alone['loss_attention'])


def test_terms_that_do_not_read_them() -> None:
    terms = dict(loss_attention=plans.ATTENTION, loss_soft=SOFT)
    model = plans.build(terms=terms, unlabeled=dict(terms=['loss_attention']))
    mixed = batch(3, (2,))
    found, alone = losses(model, mixed), losses(model, part(mixed, [0, 1]))
    torch.testing.assert_close(found['loss_soft_cls'], alone['loss_soft_cls'])
    assert not torch.equal(found['loss_attention'], alone['loss_attention'])
    assert 'loss_soft' in ' '.join(model.plan.notes)


def test_ground_truth_is_that_of_labelled_images() -> None:
    model = plans.build(SAME_WIDTH, terms=dict(loss_fgd=FGD))
    mixed = batch(3, (1,))
    found, alone = losses(model, mixed), losses(model, part(mixed, [0, 2]))
    fgd = [name for name in alone if name.startswith('loss_fgd')]
    assert fgd
    for name in fgd:
        torch.testing.assert_close(found[name], alone[name])


def test_boxes_of_the_teacher_stand_for_ground_truth() -> None:
    terms = dict(loss_fgd=FGD)
    unlabeled = dict(truth='t.head', score_thr=0.0)
    model = plans.build(SAME_WIDTH, terms=terms, unlabeled=unlabeled)
    sure = losses(model, batch(2, (0, 1)))
    model = plans.build(
        SAME_WIDTH, terms=terms, unlabeled=dict(unlabeled, score_thr=1.0)
    )
    unsure = losses(model, batch(2, (0, 1)))
    names = [name for name in sure if name.startswith('loss_fgd')]
    assert names and any(not torch.equal(sure[n], unsure[n]) for n in names)


def test_truth_must_be_a_dense_head() -> None:
    error = plans.refused(
        PlanError,
        student=SAME_WIDTH,
        terms=dict(loss_fgd=FGD),
        unlabeled=dict(truth='t.fpn'),
    )
    assert error.fix


def test_a_batch_without_labels_trains_every_parameter() -> None:
    """DDP needs a gradient for each, also of the parts that nothing reads."""
    model = plans.build(terms=dict(loss_attention=plans.ATTENTION))
    backward(model, batch(2, (0, 1)))
    named = model.named_parameters()
    assert [n for n, p in named if p.requires_grad and p.grad is None] == []
    moved = model.student.backbone.conv1.weight.grad
    assert moved.abs().sum() > 0


def test_the_own_loss_without_a_label_is_absent() -> None:
    model = plans.build(terms=dict(loss_soft=SOFT))
    found = losses(model, batch(2, (0, 1)))
    assert task(found) == {}
    assert found['loss_soft_cls'] > 0


def test_norms_learn_once_of_a_batch_without_labels_on_one_of_two_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loss of one image is for what heads average over ranks, and for it alone."""
    monkeypatch.setattr(images, 'get_world_size', lambda: 2)
    student = tiny.detr()
    student['backbone'].update(norm_eval=False, norm_cfg=dict(type='BN'))
    term = dict(type='FeatureKD', student='fpn', teacher='t.fpn')
    parts = dict(taps=dict(fpn='neck'), adapters={}, branches={})
    model = plans.build(student, tiny.detr(), terms=dict(loss_it=term), **parts)
    run = student_runs(model)
    backward(model, batch(2, (0, 1)))
    assert run == [1]  # images in the run for the loss
    norms = [m for m in model.student.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(m.training and m.num_batches_tracked == 1 for m in norms)


def student_runs(model: Distiller) -> list[int]:
    """Note the number of images of each run of the student with its loss."""
    seen: list[int] = []
    model.student.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    return seen


@pytest.mark.parametrize('student', [tiny.faster_rcnn, tiny.cascade_rcnn])
def test_a_second_stage_learns_from_labelled_images(student: Any) -> None:
    taps = dict(rpn='rpn_head', rois='roi_head.bbox_roi_extractor:in1', fpn='neck')
    regions = dict(type='RegionHead', student='rois', teacher='t.fpn')
    terms = dict(
        loss_rpn_kd=dict(type='SoftOutputKD', student='rpn', teacher='t.rpn'),
        loss_regions=dict(
            type='ProposalKD', student='box_head', teacher='regions.teacher'
        ),
    )
    if student is tiny.cascade_rcnn:
        del terms['loss_regions']
        regions = None
    else:
        taps['box_head'] = 'roi_head.bbox_head'
    model = plans.build(
        student(4, 8),
        student(8, 8),
        taps=taps,
        adapters={} if regions is None else dict(regions=regions),
        terms=terms,
    )
    for unlabelled in ((1,), (0, 1, 2)):
        backward(model, batch(3, unlabelled))
        named = model.named_parameters()
        assert [n for n, p in named if p.requires_grad and p.grad is None] == []


def test_no_term_for_a_batch_without_labels_is_refused() -> None:
    model = plans.build(SAME_WIDTH, terms=dict(loss_fgd=FGD))
    with pytest.raises(ConfigError) as caught:
        losses(model, batch(2, (0, 1)))
    assert 'MultiSourceSampler' in caught.value.fix


def test_a_step_without_labels_from_which_nothing_is_learned_is_refused() -> None:
    """Not by the terms of the plan, but by those of the step."""
    ended = dict(SOFT, schedule=dict(stop_iter=3))
    model = plans.build(SAME_WIDTH, terms=dict(loss_fgd=FGD, loss_soft=ended))
    without = batch(2, (0, 1))
    assert losses(model, without)['loss_soft_cls'] > 0
    MessageHub.get_current_instance().update_info('iter', 5)
    with pytest.raises(ConfigError) as caught:
        losses(model, without)
    MessageHub.get_current_instance().update_info('iter', 0)
    assert caught.value.actual == 'loss_fgd'
    model = plans.build(terms=dict(loss_soft=SOFT), unlabeled=dict(weight=0.0))
    with pytest.raises(ConfigError) as caught:
        losses(model, without)
    assert 'unlabeled=dict(weight=1.0)' in caught.value.fix


def test_no_labels_at_all_is_said() -> None:
    model = plans.build(terms=dict(loss_soft=SOFT), task_weight=0)
    assert any('teachers alone' in note for note in model.plan.notes)


def test_a_share_of_no_task_is_refused() -> None:
    """Every term would have factor 0, in every step."""
    given = dict(
        terms=dict(loss_soft=dict(SOFT, share=0.5)), balance=dict(type='GradientShare')
    )
    error = plans.refused(ConfigError, **given, task_weight=0)
    assert 'balance=None' in error.fix and 'weight' in error.fix
    model = plans.build(
        terms=dict(loss_soft=dict(SOFT, weight=0.5)), balance=None, task_weight=0
    )
    assert losses(model, batch(2, (0, 1)))['loss_soft_cls'] > 0


def test_terms_on_a_second_stage_are_said_not_to_read_them() -> None:
    terms = dict(
        loss_rpn_kd=dict(type='SoftOutputKD', student='rpn', teacher='t.rpn'),
        loss_regions=dict(
            type='ProposalKD', student='box_head', teacher='regions.teacher'
        ),
    )
    model = plans.build(
        tiny.faster_rcnn(4, 8),
        tiny.faster_rcnn(8, 8),
        taps=dict(
            rpn='rpn_head',
            rois='roi_head.bbox_roi_extractor:in1',
            fpn='neck',
            box_head='roi_head.bbox_head',
        ),
        adapters=dict(regions=dict(type='RegionHead', student='rois', teacher='t.fpn')),
        terms=terms,
        unlabeled=dict(weight=0.5),
    )
    (note,) = (n for n in model.plan.notes if 'without labels are not read' in n)
    assert 'loss_regions' in note and 'loss_rpn_kd' not in note


def test_images_without_samples_are_labelled() -> None:
    images = Images.of(torch.zeros(3, 3, 8, 8), None)
    assert images.labelled == 3 and images.unlabelled == 0


@pytest.mark.parametrize(
    'unlabeled', [dict(weight=-1), dict(terms=['loss_no']), dict(score_thr=2)]
)
def test_settings_are_checked(unlabeled: dict[str, Any]) -> None:
    plans.refused(ConfigError, unlabeled=unlabeled)
