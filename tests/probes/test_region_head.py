"""The teacher's second stage on the student's proposals: classes, boxes and masks."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.structures import InstanceData
from torch import Tensor

import tiny
from mkd_det.errors import (
    ConfigError,
    HeadKindError,
    MkdError,
    PlanError,
    ShapeMismatchError,
    TapNotFoundError,
    TeacherClassesError,
)
from mkd_det.heads.readers.regions import decode_regions, run_box_heads
from mkd_det.plan.recipes import packaged_recipes

RECIPES = {recipe.name: recipe.arguments for recipe in packaged_recipes()}
LABELS = 'roi_head.bbox_head.loss_cls:in1'
ROIS = torch.tensor([[0, 4, 4, 40, 60.0], [0, 10, 8, 30, 30.0], [0, 0, 0, 64, 64.0]])


def recipe(name: str) -> dict[str, Any]:
    return {'branches': {}, **deepcopy(dict(RECIPES[name]))}


def stages(*numbers: int) -> dict[str, Any]:
    """Terms for stages of a student that is a cascade."""
    parts: dict[str, Any] = dict(taps=dict(fpn='neck'), adapters={}, terms={})
    for n in numbers:
        parts['taps'][f'rois_{n}'] = f'roi_head.bbox_roi_extractor.{n}:in1'
        parts['taps'][f'head_{n}'] = f'roi_head.bbox_head.{n}'
        parts['adapters'][f'regions_{n}'] = dict(
            type='RegionHead', student=f'rois_{n}', teacher='t.fpn', stage=n
        )
        parts['terms'][f'loss_{n}'] = dict(
            type='ProposalKD', student=f'head_{n}', teacher=f'regions_{n}.teacher'
        )
    return dict(branches={}, **parts)


def masks() -> dict[str, Any]:
    """Terms of the masks alone."""
    return dict(
        branches={},
        taps=dict(
            fpn='neck',
            mask_rois='roi_head.mask_roi_extractor:in1',
            masks='roi_head.mask_head',
            labels=LABELS,
        ),
        adapters=dict(
            mask_regions=dict(
                type='ProposalMasks', student='mask_rois', teacher='t.fpn'
            )
        ),
        terms=dict(
            loss_soft_masks=dict(
                type='ProposalMaskKD',
                student='masks',
                teacher='mask_regions.teacher',
                labels='labels',
            )
        ),
    )


def three(detector: Callable) -> Callable:
    """A cascade of three stages."""

    def make(*widths: int) -> dict[str, Any]:
        cfg = detector(*widths)
        head = cfg['roi_head']
        head.update(num_stages=3, stage_loss_weights=[1, 0.5, 0.25])
        for part in ('bbox_head', 'mask_head'):
            if part in head:
                head[part] = [*head[part], head[part][-1]]
        train = cfg['train_cfg']
        train['rcnn'] = [*train['rcnn'], deepcopy(train['rcnn'][-1])]
        return cfg

    return make


def libra(*widths: int) -> dict[str, Any]:
    """A tiny Libra R-CNN: another neck, sampler and box loss."""
    cfg = tiny.faster_rcnn(*widths)
    balanced = dict(
        type='BFP',
        in_channels=cfg['neck']['out_channels'],
        num_levels=5,
        refine_level=2,
    )
    cfg['neck'] = [cfg['neck'], balanced]
    cfg['roi_head']['bbox_head']['loss_bbox'] = dict(type='BalancedL1Loss')
    sampler = cfg['train_cfg']['rcnn']['sampler']
    sampler.update(
        type='CombinedSampler',
        pos_sampler=dict(type='InstanceBalancedPosSampler'),
        neg_sampler=dict(type='IoUBalancedNegSampler', floor_thr=-1),
    )
    return cfg


def losses_of(model: Any, **batch: Any) -> dict[str, Tensor]:
    data = model.data_preprocessor(tiny.batch(masks=True, **batch), True)
    found = model(**data, mode='loss')
    return {
        name: value
        for name, value in found.items()
        if any(name.startswith(term) for term in model.plan.terms)
    }


@pytest.mark.parametrize(
    'cfg, parts',
    [
        (tiny.faster_rcnn, recipe('soft_two_stage')),
        (tiny.cascade_rcnn, stages(0, 1)),
        (tiny.mask_rcnn, masks()),
    ],
    ids=['faster', 'cascade', 'masks'],
)
def test_the_same_model_as_teacher_and_student_gives_0(
    cfg: Callable[[], dict], parts: dict, tmp_path: Path
) -> None:
    file = tiny.write_checkpoint(cfg(), tmp_path / 't.pth')
    model = tiny.build(tiny.distiller(cfg(), cfg(), file, **parts))
    model.load_state_dict(torch.load(file)['state_dict'])
    model.student.eval()  # as the teacher is
    losses = losses_of(model)
    assert losses
    for name, value in losses.items():
        assert float(value.detach()) == pytest.approx(0, abs=1e-5), name


@pytest.mark.parametrize(
    'student, teacher, parts',
    [
        (tiny.faster_rcnn, tiny.cascade_rcnn, recipe('soft_two_stage')),
        (tiny.faster_rcnn, tiny.mask_rcnn, recipe('mkd_two_stage')),
        (tiny.mask_rcnn, tiny.cascade_mask_rcnn, recipe('mkd_two_stage')),
        (tiny.mask_rcnn, tiny.faster_rcnn, recipe('mkd_two_stage')),
        (tiny.cascade_rcnn, tiny.cascade_mask_rcnn, stages(0, 1)),
        (three(tiny.cascade_mask_rcnn),) * 2 + (recipe('mkd_cascade_two_stage'),),
        (libra, libra, recipe('soft_two_stage')),
    ],
    ids=[
        'faster-cascade',
        'faster-mask',
        'mask-cascade',
        'mask-faster',
        'cascades',
        'cascades with masks',
        'libra',
    ],
)
def test_every_term_of_a_step_has_a_gradient(
    student: Callable, teacher: Callable, parts: dict
) -> None:
    model = tiny.build(tiny.distiller(student(4, 8), teacher(8, 16), **parts)).train()
    losses = losses_of(model)
    for name, value in losses.items():
        assert torch.isfinite(value) and value > 0, name
        value.backward(retain_graph=True)
    heads = [*model.student.rpn_head.parameters(), *model.student.roi_head.parameters()]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in heads)


def test_masks_are_compared_where_both_models_have_them() -> None:
    parts = recipe('soft_two_stage')
    for teacher in (tiny.mask_rcnn, tiny.cascade_mask_rcnn):
        both = tiny.distiller(tiny.mask_rcnn(4, 8), teacher(8, 16), **parts)
        assert 'loss_soft_masks' in tiny.build(both).plan.terms
    for student, teacher, whose in (
        (tiny.mask_rcnn, tiny.faster_rcnn, 't'),
        (tiny.faster_rcnn, tiny.mask_rcnn, 'student'),
    ):
        plan = tiny.build(tiny.distiller(student(4, 8), teacher(8, 16), **parts)).plan
        assert 'loss_soft_masks' not in plan.terms
        assert 'mask_regions' not in plan.adapters
        assert {'term loss_soft_masks', 'adapter mask_regions'} <= set(plan.off)
        (note,) = plan.notes
        assert note.startswith(f'term loss_soft_masks is off: {whose} has no roi_head')


@pytest.mark.parametrize('student, teacher, count', [(2, 3, 2), (3, 2, 2), (3, 3, 3)])
def test_cascades_are_compared_in_the_stages_that_both_have(
    student: int, teacher: int, count: int
) -> None:
    sides = [
        (tiny.cascade_rcnn if n == 2 else three(tiny.cascade_rcnn))(width, 2 * width)
        for n, width in ((student, 4), (teacher, 8))
    ]
    parts = recipe('soft_cascade_two_stage')
    plan = tiny.build(tiny.distiller(*sides, **parts)).plan
    wanted = {f'loss_soft_regions_{n}' for n in range(count)}
    assert set(plan.terms) == {'loss_soft_rpn', *wanted}
    whose = 'student' if student <= teacher else 't'
    lack = f'{whose} has no roi_head.bbox_head.{count}'
    assert f'term loss_soft_regions_{count} is off: {lack}' in plan.notes


def test_boxes_without_ground_truth_and_without_positives() -> None:
    model = tiny.build(
        tiny.distiller(
            tiny.mask_rcnn(4, 8), tiny.mask_rcnn(8, 16), **recipe('mkd_two_stage')
        )
    )
    losses = losses_of(model, boxes=0)
    assert all(torch.isfinite(value) for value in losses.values())
    assert float(losses['loss_soft_masks'].detach()) == 0
    torch.stack(list(losses.values())).sum().backward()


@pytest.mark.parametrize(
    'detector, name',
    [
        (tiny.faster_rcnn, 'dkd_two_stage'),
        (tiny.faster_rcnn, 'soft_two_stage'),
        (tiny.mask_rcnn, 'mkd_two_stage'),
    ],
)
def test_a_batch_without_any_proposal_counts_nothing(
    detector: Callable, name: str
) -> None:
    """mmdet then skips the class loss, whose labels are tapped."""
    student = detector(4, 8)
    student['train_cfg']['rpn_proposal']['min_bbox_size'] = 10_000
    model = tiny.build(tiny.distiller(student, detector(8, 16), **recipe(name)))
    losses = losses_of(model, boxes=0)
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total)
    read = ('loss_dkd', 'loss_soft_regions', 'loss_soft_masks')
    found = [losses[key] for key in losses if key.startswith(read)]
    assert found and all(part == 0 and part.requires_grad for part in found)
    total.backward()


def own_boxes(model: Any, deltas: Tensor, logits: Tensor) -> Tensor:
    """The boxes (R, K, 4) of the head's own prediction."""
    head = model.roi_head.bbox_head
    head = head[-1] if hasattr(head, '__len__') else head
    metas = dict(img_shape=(10_000, 10_000), scale_factor=(1.0, 1.0))
    result = head._predict_by_feat_single(
        roi=ROIS, cls_score=logits, bbox_pred=deltas, img_meta=metas, rcnn_test_cfg=None
    )
    assert isinstance(result, InstanceData)
    return result.bboxes.view(len(ROIS), -1, 4)


@pytest.mark.parametrize('mode', [True, False])
def test_boxes_are_those_of_the_heads_own_prediction(mode: bool) -> None:
    model = tiny.build(tiny.faster_rcnn()).train(mode)
    features = model.extract_feat(torch.randn(1, 3, 64, 64))
    logits, deltas, regions = run_box_heads(model, features, ROIS)
    read = decode_regions(model.roi_head.bbox_head, regions, deltas)
    assert read is not None and read.shape == (3, 3, 4)
    assert torch.equal(read.clamp(min=0), own_boxes(model, deltas, logits))


def test_a_cascade_is_run_as_in_its_prediction() -> None:
    model = tiny.build(tiny.cascade_rcnn()).eval()
    with torch.no_grad():
        features = model.extract_feat(torch.randn(1, 3, 64, 64))
        sizes = [(48, 64)]  # without padding
        logits, deltas, regions = run_box_heads(
            model, features, ROIS, image_sizes=sizes
        )
        metas = [dict(img_shape=sizes[0])]
        theirs = model.roi_head._refine_roi(features, ROIS, metas, [3])
        one = run_box_heads(model, features, ROIS, stage=1)
        own = model.roi_head._bbox_forward(1, features, ROIS)
    assert torch.allclose(regions, theirs[0][0], atol=1e-3)
    assert torch.allclose(logits, theirs[1][0], atol=1e-3)
    assert torch.allclose(deltas, theirs[2][0], atol=1e-3)
    assert torch.equal(one[0], own['cls_score']) and torch.equal(one[2], ROIS)


def test_soft_outputs_read_boxes_of_regions_too() -> None:
    parts = recipe('soft_two_stage')
    parts['terms']['loss_soft_regions']['type'] = 'SoftOutputKD'
    model = tiny.build(
        tiny.distiller(tiny.faster_rcnn(4, 8), tiny.cascade_rcnn(8, 16), **parts)
    )
    assert losses_of(model)['loss_soft_regions_box'] > 0


# -- bad input --------------------------------------------------------------------


def sabl(*widths: int) -> dict[str, Any]:
    """Its box head codes boxes by buckets, and yields a tuple of them."""
    cfg = tiny.faster_rcnn(*widths)
    cfg['roi_head']['bbox_head'].update(reg_decoded_bbox=False)
    cfg['roi_head']['bbox_head']['bbox_coder'] = dict(
        type='TBLRBBoxCoder', normalizer=4.0
    )
    return cfg


def grid(*widths: int) -> dict[str, Any]:
    """A tiny Grid R-CNN: its boxes come from a grid of points."""
    cfg = tiny.faster_rcnn(*widths)
    head, width = cfg['roi_head'], cfg['neck']['out_channels']
    head['type'] = 'GridRoIHead'
    head['bbox_head'].update(with_reg=False)
    extractor = deepcopy(head['bbox_roi_extractor'])
    extractor['roi_layer']['output_size'] = 14
    head.update(
        grid_roi_extractor=extractor,
        grid_head=dict(
            type='GridHead',
            grid_points=9,
            num_convs=1,
            in_channels=width,
            point_feat_channels=8,
            norm_cfg=dict(type='GN', num_groups=36),
            loss_grid=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=15),
        ),
    )
    cfg['type'] = 'GridRCNN'
    cfg['train_cfg']['rcnn'].update(pos_radius=1, max_num_grid=192)
    return cfg


def other_mask_size(*widths: int) -> dict[str, Any]:
    cfg = tiny.mask_rcnn(*widths)
    cfg['roi_head']['mask_roi_extractor']['roi_layer']['output_size'] = 7
    return cfg


def shared_masks(*widths: int) -> dict[str, Any]:
    cfg = tiny.mask_rcnn(*widths)
    cfg['roi_head']['mask_head']['class_agnostic'] = True
    return cfg


def five(detector: Callable) -> Callable:
    return lambda *widths: detector(*widths, num_classes=5)


SOFT = 'soft_two_stage'
BAD: list[tuple[Callable, Callable, Any, type[MkdError], str]] = [
    (tiny.faster_rcnn, five(tiny.faster_rcnn), SOFT, TeacherClassesError, 'num_cl'),
    (tiny.faster_rcnn, five(tiny.cascade_rcnn), SOFT, TeacherClassesError, 'num_cl'),
    (tiny.faster_rcnn, sabl, SOFT, HeadKindError, "boxes='off'"),
    (sabl, tiny.faster_rcnn, SOFT, HeadKindError, "boxes='off'"),
    (grid, grid, SOFT, HeadKindError, "boxes='off'"),
    (tiny.mask_rcnn, tiny.faster_rcnn, masks(), HeadKindError, 'weight=0'),
    (tiny.faster_rcnn, tiny.mask_rcnn, masks(), TapNotFoundError, SOFT),
    (tiny.mask_rcnn, other_mask_size, masks(), ShapeMismatchError, 'output_size'),
    (tiny.mask_rcnn, five(tiny.mask_rcnn), masks(), TeacherClassesError, 'num_cl'),
    (tiny.cascade_rcnn, tiny.faster_rcnn, stages(0, 1), ConfigError, 'without stage'),
    (tiny.cascade_rcnn, tiny.cascade_rcnn, SOFT, MkdError, 'roi_head.bbox_'),
    (tiny.gfl, tiny.faster_rcnn, SOFT, HeadKindError, 'cwd_dense'),
]


@pytest.mark.parametrize('student, teacher, parts, kind, fix', BAD)
def test_what_does_not_fit_is_told_before_training(
    student: Callable,
    teacher: Callable,
    parts: Any,
    kind: type[MkdError],
    fix: str,
) -> None:
    parts = recipe(parts) if isinstance(parts, str) else parts
    with pytest.raises(kind) as error:
        tiny.build(tiny.distiller(student(4, 8), teacher(8, 16), **parts))
    assert fix in str(error.value)


@pytest.mark.parametrize(
    'student, teacher', [(sabl, tiny.faster_rcnn), (grid, grid), (grid, tiny.mask_rcnn)]
)
def test_the_advice_for_other_codings_works(
    student: Callable, teacher: Callable
) -> None:
    parts = recipe(SOFT)
    parts['terms']['loss_soft_regions']['boxes'] = 'off'
    model = tiny.build(tiny.distiller(student(4, 8), teacher(8, 16), **parts))
    assert losses_of(model.train())['loss_soft_regions_cls'] > 0


def test_masks_of_all_classes_meet_masks_of_each() -> None:
    model = tiny.build(
        tiny.distiller(tiny.mask_rcnn(4, 8), shared_masks(8, 16), **masks())
    )
    assert losses_of(model)['loss_soft_masks'] > 0


def test_regions_of_one_stage_and_classes_of_another_are_refused() -> None:
    parts = stages(0, 1)
    parts['terms']['loss_0']['teacher'] = 'regions_1.teacher'
    with pytest.raises(PlanError, match='several stages'):
        tiny.build(
            tiny.distiller(tiny.cascade_rcnn(4, 8), tiny.cascade_rcnn(8, 16), **parts)
        )


def test_masks_of_a_shared_extractor_are_off_and_said_to_be() -> None:
    shared = tiny.mask_rcnn(4, 8)
    shared['roi_head']['mask_roi_extractor'] = None
    parts = recipe('soft_two_stage')
    plan = tiny.build(tiny.distiller(shared, tiny.mask_rcnn(8, 16), **parts)).plan
    assert 'loss_soft_masks' not in plan.terms
    assert 'no roi_head.mask_roi_extractor' in ' '.join(plan.notes)


def test_a_cascade_without_regions_after_its_first_stage_goes_on() -> None:
    student = tiny.cascade_mask_rcnn(4, 8)
    for one in student['train_cfg']['rcnn']:
        one['sampler']['add_gt_as_proposals'] = False
    student['train_cfg']['rpn_proposal']['min_bbox_size'] = 1e6
    parts = recipe('soft_cascade_two_stage')
    pair = tiny.distiller(student, tiny.cascade_mask_rcnn(8, 16), **parts)
    model = tiny.build(pair).train()
    losses = losses_of(model)
    later = ('loss_soft_regions_1_cls', 'loss_soft_regions_1_box', 'loss_soft_masks_1')
    assert all(losses[name] == 0 and losses[name].requires_grad for name in later)
    assert losses['loss_soft_rpn_cls'] > 0
