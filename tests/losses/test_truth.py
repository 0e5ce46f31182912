"""Losses that use the ground truth: numbers by hand, and errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes
from torch import Tensor

import tiny
import tiny_images
from mkd_det import functional as MF
from mkd_det.errors import ConfigError, HeadKindError, PlanError, ShapeMismatchError
from mkd_det.heads.ground_truth import read_truth
from mkd_det.losses.features.fgd import FGD
from mkd_det.losses.features.region_relation import RegionRelationKD
from mkd_det.losses.outputs.dkd import DKD
from mkd_det.losses.outputs.ld import LD
from mkd_det.structures import GroundTruth, HeadOutput

ln = math.log
NO_BOXES = torch.zeros(0, 4)


def truth(*boxes: list[float], side: int = 64) -> GroundTruth:
    """Return the ground truth of one image with these boxes."""
    each = torch.tensor(boxes) if boxes else NO_BOXES
    return GroundTruth((each,), (torch.zeros(len(each)).long(),), (side, side))


def labels(*values: int) -> GroundTruth:
    return GroundTruth((), tuple(torch.tensor(values)), (8, 8))


# -- DKD ----------------------------------------------------------------------


def test_decoupled_parts_by_hand() -> None:
    teacher = torch.tensor([[0.7, 0.2, 0.1]]).log()
    student = torch.zeros(1, 3)
    parts = DKD(beta=3.0, tau=1.0)([student], [teacher], truth=labels(0))
    target = 0.7 * ln(0.7 * 3) + 0.3 * ln(0.3 * 1.5)
    rest = 2 / 3 * ln(4 / 3) + 1 / 3 * ln(2 / 3)
    assert parts['target'].item() == pytest.approx(target, rel=1e-5)
    assert parts['rest'].item() == pytest.approx(3 * rest, rel=1e-5)


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_the_parts_are_those_of_plain_soft_outputs(tau: float) -> None:
    """KL = TCKD + (1 - p_y) NCKD, as the paper derives."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 7).unbind()
    right = torch.tensor([0, 6, 3, 3, 1])
    target, rest = MF.decoupled_kl(student, teacher, right, tau)
    sure = (teacher / tau).softmax(-1).gather(1, right[:, None])[:, 0]
    whole = MF.softmax_kl(student, teacher, tau)
    torch.testing.assert_close(target + (1 - sure) * rest, whole)


def test_decoupled_positions_have_the_label_of_their_image() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 2, 2).unbind()
    parts = DKD()([student], [teacher], truth=labels(2, 0))
    places = [level.movedim(1, -1).flatten(0, 2) for level in (student, teacher)]
    each = torch.tensor([2, 2, 2, 2, 0, 0, 0, 0])
    target, rest = MF.decoupled_kl(*places, each, 4.0)
    torch.testing.assert_close(parts['target'], target.mean())
    torch.testing.assert_close(parts['rest'], 2 * rest.mean())


def test_decoupled_samples_are_weighted() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 3).unbind()
    mask = [torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1)]
    weighed = DKD()([student], [teacher], mask=mask, truth=labels(2, 0))
    alone = DKD()([student[:1]], [teacher[:1]], truth=labels(2))
    torch.testing.assert_close(weighed, alone)


# -- LD -----------------------------------------------------------------------

ANCHORS = torch.tensor(
    [[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [50.0, 50.0, 60.0, 60.0]]
)


@pytest.mark.parametrize('gamma, valuable', [(0.25, True), (0.3, False)])
def test_regions_by_hand(gamma: float, valuable: bool) -> None:
    # IoU 1, 1/3, 0: alpha = 4/9 + sqrt(7/27) = 0.954. DIoU of the second:
    # 1/3 - 25/325 = 0.256, between 0.25 alpha = 0.238 and 0.3 alpha = 0.286.
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    main, around = MF.localisation_regions([ANCHORS], box, gamma)
    assert main.tolist() == [True, False, False]
    assert around.tolist() == [False, valuable, False]


def test_regions_without_boxes_are_empty() -> None:
    main, around = MF.localisation_regions([ANCHORS], NO_BOXES)
    assert not main.any() and not around.any()


def test_the_main_region_is_where_mmdet_learns_boxes() -> None:
    """Compare with mmdet's assigner, anchor by anchor."""
    from mmdet.models.task_modules.assigners import ATSSAssigner
    from mmengine.structures import InstanceData

    model = tiny.build(tiny.gfl())
    sizes = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
    grid = model.bbox_head.prior_generator.grid_priors(sizes, device='cpu')
    draw = torch.Generator().manual_seed(0)
    corner = torch.rand(6, 2, generator=draw) * 80
    boxes = torch.cat([corner, corner + 10 + torch.rand(6, 2, generator=draw) * 38], 1)
    found = ATSSAssigner(topk=9).assign(
        InstanceData(priors=torch.cat(grid)),
        [len(level) for level in grid],
        InstanceData(bboxes=boxes, labels=torch.zeros(6).long()),
    )
    main, _ = MF.localisation_regions(grid, boxes)
    assert main.sum() > 6
    assert torch.equal(main, found.gt_inds > 0)


def test_each_region_is_a_mean_over_its_positions() -> None:
    bins = torch.zeros(1, 3, 4, 2)
    bins[0, 0, 0, 0] = 10 * ln(3)  # one side of four, in the main region
    bins[0, 1] = bins[0, 2] = torch.tensor([10 * ln(3), 0.0])
    scores = torch.zeros(1, 3, 1)
    teacher = HeadOutput(scores, None, bins, (ANCHORS,))
    student = HeadOutput(scores, None, torch.zeros_like(bins), (ANCHORS,))
    box = truth([0.0, 0.0, 10.0, 10.0])
    parts = LD(main=2.0)([student], [teacher], truth=box)
    kl = 100 * (0.75 * ln(1.5) + 0.25 * ln(0.5))
    assert parts['main'].item() == pytest.approx(2 * kl / 4, rel=1e-4)
    assert parts['valuable'].item() == pytest.approx(kl, rel=1e-4)
    nothing = LD(valuable=0.0)([student], [teacher], truth=truth())
    assert {k: v.item() for k, v in nothing.items()} == {'main': 0.0}


# -- FGD ----------------------------------------------------------------------


def fgd(channels: int = 1, **more: Any) -> FGD:
    return FGD(channels=[(channels, channels)], **more)


def numbers(parts: dict[str, Tensor]) -> list[float]:
    return [parts[name].item() for name in ('focal', 'attention', 'context')]


def test_objects_and_background_by_hand() -> None:
    # One cell of four holds the box; all attention is 1; every difference is 1.
    student, teacher = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    box = truth([1.0, 1.0, 30.0, 30.0])
    found = fgd(alpha=2.0, beta=0.5, lam=3.0)([student], [teacher], truth=box)
    assert numbers(found) == pytest.approx([2.5, 0, 3])
    summed = fgd(alpha=2.0, beta=0.5, lam=3.0, reduction='sum')
    assert numbers(summed([student], [teacher], truth=box)) == pytest.approx(
        [2.5, 0, 12]
    )
    empty = fgd(alpha=2.0, beta=0.5)([student], [teacher], truth=truth())
    assert numbers(empty)[0] == pytest.approx(0.5)


def test_objects_have_equal_weight_and_the_smallest_wins() -> None:
    student, teacher = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    whole, small = [0.0, 0.0, 64.0, 64.0], [0.0, 0.0, 32.0, 32.0]
    loss = fgd(alpha=1.0, beta=0.5)
    # The whole image: four cells of 1/4; over it a box of one cell.
    assert numbers(loss([student], [teacher], truth=truth(whole)))[0] == 1
    both = loss([student], [teacher], truth=truth(whole, small))
    assert numbers(both)[0] == pytest.approx(1 + 3 / 4)


def test_attention_by_hand() -> None:
    student = torch.zeros(1, 1, 2, 2)
    teacher = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    e = math.exp(2)  # T is 1/2
    high, low = 4 * e / (e + 3), 4 / (e + 3)
    found = fgd(gamma=2.0, beta=0.0)([student], [teacher], truth=truth())
    wanted = 2 * ((high - 1) + 3 * (1 - low)) / 4
    assert numbers(found)[1] == pytest.approx(wanted, rel=1e-5)
    channels = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    found = fgd(2)([torch.zeros(1, 2, 1, 1)], [channels], truth=truth())
    share = e / (e + 1)
    assert numbers(found)[1] == pytest.approx(2 * share - 1, rel=1e-5)


def test_the_cells_of_a_box() -> None:
    boxes = torch.tensor([[0.0, 15.0, 17.0, 32.0], [63.5, 0.0, 64.0, 64.0]])
    rows, columns = MF.box_cells(boxes, (64, 64), (4, 4))
    assert rows.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert columns.int().tolist() == [[1, 1, 0, 0], [0, 0, 0, 1]]
    flat = torch.tensor([[16.0, 5.0, 16.0, 20.0]])
    assert MF.box_cells(flat, (64, 64), (4, 4))[1].int().tolist() == [[0, 1, 0, 0]]


def test_the_context_is_learned_on_both_sides_and_widths_may_differ() -> None:
    torch.manual_seed(0)
    loss = FGD(channels=[(2, 6)])
    student = torch.randn(2, 2, 4, 4, requires_grad=True)
    twice = GroundTruth((NO_BOXES,) * 2, (), (64, 64))
    parts = loss([student], [torch.randn(2, 6, 4, 4)], truth=twice)
    torch.stack(list(parts.values())).sum().backward()
    for side in loss.contexts[0].children():
        assert side.change[-1].weight.grad.abs().sum() > 0
    assert loss.aligners[0].weight.grad.abs().sum() > 0


# -- relations between regions ----------------------------------------------------


def cells(*boxes: int, images: int = 1) -> GroundTruth:
    """Return one box around each of these cells of a row of 32-pixel cells."""
    made = torch.tensor([[32.0 * x, 0, 32.0 * x + 30, 30] for x in boxes])
    return GroundTruth((made.reshape(-1, 4),) * images, (), (32, 96))


def test_relations_of_two_objects_and_their_image_by_hand() -> None:
    # Nodes: both boxes and the whole image. The teacher's are (3, 0), (0, 3), (1, 1),
    # centred (5, -4) / 3, (-4, 5) / 3, (-1, -1) / 3. The student's are on a line.
    teacher = torch.tensor([[[[3.0, 0, 0]], [[0.0, 3, 0]]]])
    student = torch.tensor([[[[3.0, -3, 3]], [[3.0, -3, 3]]]])
    loss = RegionRelationKD()([student], [teacher], truth=cells(0, 1))
    between, image = -40 / 41, -1 / math.sqrt(82)
    wanted = 2 * ((-1 - between) ** 2 + (1 - image) ** 2 + (-1 - image) ** 2) / 9
    assert loss.item() == pytest.approx(wanted)


def test_relations_reach_over_images_and_widths_and_sizes_may_differ() -> None:
    torch.manual_seed(0)
    student = torch.randn(2, 3, 2, 6, requires_grad=True)
    teacher = torch.randn(2, 5, 1, 3)
    nothing = cells(images=2)  # two whole images
    loss = RegionRelationKD()
    assert loss([student], [teacher], truth=nothing).item() == 0
    one = nothing._replace(boxes=(cells(1).boxes[0], NO_BOXES))  # and one box
    found = loss([student], [teacher], truth=one)
    found.backward()
    assert found > 0 and (student.grad.abs().sum((1, 2, 3)) > 0).all()
    # A shift of all features, or of their size, changes no relation.
    moved = teacher * 4 + torch.randn(1, 5, 1, 1)
    torch.testing.assert_close(loss([student], [moved], truth=one), found)


def test_equal_regions_have_no_relations() -> None:
    """A level of one cell, and one without structure: rounding is no direction."""
    torch.manual_seed(0)
    boxes = cells(0, 1, 2)
    for size, scale in ((1, 1), 1.0), ((8, 8), 10.0):
        level = scale * torch.rand(1, 64, 1, 1).expand(1, 64, *size).contiguous()
        level.requires_grad_()
        loss = RegionRelationKD()([level], [torch.randn(1, 32, 1, 1)], truth=boxes)
        assert loss.item() == 0


def test_relations_without_boxes_or_maps_are_refused() -> None:
    maps, vectors = [torch.ones(1, 2, 1, 3)], [torch.ones(1, 2)]
    for levels, given in (maps, None), (vectors, cells(0)):
        with pytest.raises(ShapeMismatchError, match='ground-truth boxes'):
            RegionRelationKD()(levels, levels, truth=given)


# -- what is asked for and not there --------------------------------------------


def test_boxes_are_read_as_tensors_of_input_pixels() -> None:
    batch = tiny.batch()
    wanted = [sample.gt_instances.bboxes for sample in batch['data_samples']]
    inputs = torch.zeros(2, 3, 64, 96)
    for sample in batch['data_samples']:
        boxes = HorizontalBoxes(sample.gt_instances.bboxes)
        sample.gt_instances.bboxes = boxes
    found = read_truth('boxes', inputs, batch['data_samples'])
    assert found.size == (64, 96)
    assert all(map(torch.equal, found.boxes, wanted))
    with pytest.raises(ConfigError, match='boxes'):
        read_truth('boxes', inputs, tiny_images.batch()['data_samples'])
    with pytest.raises(ConfigError, match='boxes'):
        read_truth('boxes', inputs, None)


def test_labels_of_images_and_of_mixed_images() -> None:
    samples = tiny_images.batch((2, 0))['data_samples']
    inputs = torch.zeros(2, 3, 16, 16)
    assert [int(x) for x in read_truth('labels', inputs, samples).labels] == [2, 0]
    for sample, score in zip(samples, ([0.2, 0.8, 0.0], [0.6, 0.0, 0.4])):
        sample.gt_score = torch.tensor(score)
    assert [int(x) for x in read_truth('labels', inputs, samples).labels] == [1, 0]
    with pytest.raises(ConfigError, match='label'):
        read_truth('labels', inputs, tiny.batch()['data_samples'])


def term(kind: str, tap: str) -> dict[str, Any]:
    terms = dict(loss_x=dict(type=kind, student=tap, teacher=f't.{tap}'))
    return dict(adapters={}, branches={}, terms=terms)


def test_boxes_for_a_classifier_and_labels_for_a_detector_are_plan_errors() -> None:
    images = tiny_images.classifier()
    cfg = tiny.distiller(images, images, **term('FGD', 'stages'))
    with pytest.raises(PlanError, match='FGD needs boxes') as caught:
        tiny_images.build(cfg)
    assert 'DKD' in str(caught.value)
    cfg = tiny.distiller(tiny.gfl(), tiny.gfl(), **term('DKD', 'fpn'))
    with pytest.raises(PlanError, match='DKD needs one label') as caught:
        tiny.build(cfg)
    assert 'FGD' in str(caught.value)


@pytest.mark.parametrize('detector', [tiny.retinanet, tiny.fcos, tiny.atss])
def test_heads_without_distributions_are_refused_by_name(detector: Any) -> None:
    cfg = tiny.distiller(detector(), detector(), **term('LD', 'head'))
    with pytest.raises(HeadKindError, match='box distributions') as caught:
        tiny.build(cfg)
    assert "type='SoftOutputKD'" in str(caught.value)


def test_fgd_on_a_head_is_refused() -> None:
    cfg = tiny.distiller(tiny.gfl(), tiny.gfl(), **term('FGD', 'head'))
    with pytest.raises(PlanError, match='a whole head'):
        tiny.build(cfg)
    with pytest.raises(ShapeMismatchError, match='feature maps'):
        FGD()([torch.zeros(1, 1, 2, 2)], [torch.zeros(1, 1, 2, 2)], truth=truth())


@pytest.mark.parametrize(
    'loss, bad',
    [
        (FGD, dict(alpha=-1.0)),
        (FGD, dict(alpha=0, beta=0, gamma=0, lam=0)),
        (FGD, dict(temperature=0.0)),
        (FGD, dict(reduction='max')),
        (DKD, dict(alpha=0.0, beta=0.0)),
        (DKD, dict(tau=0.0)),
        (LD, dict(main=0.0, valuable=0.0)),
        (LD, dict(gamma=1.5)),
    ],
)
def test_arguments_out_of_range_are_refused(loss: Any, bad: dict) -> None:
    with pytest.raises(ConfigError):
        loss(**bad)


def test_a_step_with_every_such_loss() -> None:
    wide, small = tiny.gfl(8, 16), tiny.gfl(4, 8)
    terms = dict(
        loss_fgd=dict(type='FGD', student='fpn', teacher='t.fpn'),
        loss_ld=dict(type='LD', student='head', teacher='t.head'),
    )
    cfg = tiny.distiller(small, wide, terms=terms, adapters={}, branches={})
    model = tiny.build(cfg)
    data = model.data_preprocessor(tiny.batch(), True)
    losses = model(**data, mode='loss')
    names = {name for name in losses if name.startswith(('loss_fgd', 'loss_ld'))}
    assert names == {
        *(f'loss_fgd_{part}' for part in ('focal', 'attention', 'context')),
        *(f'loss_ld_{part}' for part in ('main', 'valuable')),
    }
    assert all(losses[name] > 0 for name in names)
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.losses.parameters())
    assert model.losses['loss_fgd'].aligners[0].weight.shape[:2] == (16, 8)


def test_a_classifier_learns_decoupled() -> None:
    cfg = dict(
        type='Distiller',
        student=tiny_images.classifier(),
        teachers=dict(t=dict(cfg=tiny_images.classifier(base_channels=8))),
        taps=dict(logits='head'),
        terms=dict(loss_dkd=dict(type='DKD', student='logits', teacher='t.logits')),
        probe_size=32,
    )
    cfg['teachers']['t']['checkpoint'] = None
    model = tiny_images.build(cfg)
    data = model.data_preprocessor(tiny_images.batch(), True)
    losses = model(**data, mode='loss')
    assert losses['loss_dkd_target'] > 0 and losses['loss_dkd_rest'] > 0


def test_boxes_with_swapped_corners_are_valid() -> None:
    """Heads with signed distances yield such boxes."""
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    turned = torch.tensor([[10.0, 0.0, 0.0, 10.0]])
    assert MF.giou_distance(box, turned).item() == pytest.approx(0, abs=1e-6)
    flat = torch.tensor([[3.0, 4.0, 3.0, 9.0], [5.0, 5.0, 5.0, 5.0]])
    assert MF.giou_distance(flat, flat).tolist() == [0.0, 0.0]
    assert MF.giou_distance(flat, flat + 1).min() > 0
    draw = torch.randn(2, 1000, 4, generator=torch.Generator().manual_seed(0))
    distance = MF.giou_distance(*draw)
    assert distance.min() >= 0 and distance.max() <= 2
