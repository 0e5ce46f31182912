"""Each loss equals numbers that were computed by hand (or with `math` alone)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mkd_det import functional as MF
from mkd_det.errors import ConfigError, HeadKindError, ShapeMismatchError
from mkd_det.losses.features.attention import AttentionKD
from mkd_det.losses.features.feature import FeatureKD
from mkd_det.losses.features.relation import RelationKD
from mkd_det.losses.outputs.dist import DIST
from mkd_det.losses.outputs.dlkd import DLKD
from mkd_det.losses.outputs.soft_output import SoftOutputKD
from mkd_det.structures import HeadOutput
from mkd_det.weighting.teacher_weights import as_mask

ln = math.log


def maps(*rows: list[float], width: int) -> Tensor:
    """Return a map (1, C, H, W) from a row of values per channel."""
    return torch.tensor(rows).reshape(1, len(rows), -1, width)


def logit(p: float) -> float:
    return ln(p / (1 - p))


def total(parts: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum()


def dense(
    sigmas: list[list[float]],
    boxes: list[list[float]] | None = None,
    bins: list | None = None,
) -> HeadOutput:
    """Return a head output of one image from class probabilities, boxes and bins."""
    return HeadOutput(
        torch.tensor([[[logit(p) for p in place] for place in sigmas]]),
        None if boxes is None else torch.tensor([boxes]),
        None if bins is None else torch.tensor([bins]),
    )


# ---------------------------------------------------------------- soft outputs


def test_softmax_kl_is_the_mean_over_samples_not_over_classes() -> None:
    # p_t = (3/4, 1/4), p_s = (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2.
    kl = 0.75 * ln(1.5) + 0.25 * ln(0.5)
    student = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
    teacher = torch.tensor([[ln(3), 0.0], [ln(3), 0.0]])
    loss = SoftOutputKD()([student], [teacher])
    assert loss.item() == pytest.approx(kl, rel=1e-5)
    # Not 1/2 of it, as PyTorch's 'mean' would give.
    assert loss.item() == pytest.approx(0.130812, rel=1e-4)


def test_softmax_kl_has_the_square_of_the_temperature() -> None:
    # Logits twice as large at tau 2 are the same distributions, times 4.
    kl = 0.75 * ln(1.5) + 0.25 * ln(0.5)
    loss = SoftOutputKD(tau=2)([torch.zeros(1, 2)], [torch.tensor([[2 * ln(3), 0.0]])])
    assert loss.item() == pytest.approx(4 * kl, rel=1e-5)


def test_softmax_kl_on_a_hundred_classes_is_not_a_hundred_times_too_small() -> None:
    teacher = torch.zeros(1, 100)
    teacher[0, 0] = ln(99)  # p = 1/2 for one class, 1/198 for each other
    kl = 0.5 * ln(0.5 * 100) + 0.5 * ln(100 / 198)
    loss = SoftOutputKD(classes='softmax')([torch.zeros(1, 100)], [teacher])
    assert loss.item() == pytest.approx(kl, rel=1e-5)


def test_quality_bce() -> None:
    # sigma_s = 1/4, sigma_t = 3/4: BCE = -3/4 ln 1/4 - 1/4 ln 3/4; |difference| 1/2.
    bce = -0.75 * ln(0.25) - 0.25 * ln(0.75)
    student, teacher = torch.tensor([logit(0.25)]), torch.tensor([logit(0.75)])
    assert MF.quality_bce(student, teacher, beta=0).item() == pytest.approx(bce)
    assert MF.quality_bce(student, teacher).item() == pytest.approx(bce / 2)
    assert MF.quality_bce(student, teacher, beta=2).item() == pytest.approx(bce / 4)
    softer = MF.quality_bce(2 * student, 2 * teacher, tau=2)
    assert softer.item() == pytest.approx(2 * bce / 2)
    softer = MF.quality_bce(2 * student, 2 * teacher, beta=0, tau=2)
    assert softer.item() == pytest.approx(4 * bce)


@pytest.mark.parametrize('beta', [0.0, 1.0, 2.0])
def test_the_temperature_does_not_change_the_size_of_a_gradient(beta: float) -> None:
    student, teacher = torch.randn(500, requires_grad=True), torch.randn(500)
    sizes = []
    for tau in (4.0, 8.0, 16.0, 32.0):
        loss = MF.quality_bce(student, teacher, beta, tau).sum()
        sizes.append(torch.autograd.grad(loss, student)[0].norm())
    assert max(sizes) / min(sizes) < 1.2


def test_sigmoid_classes_are_divided_by_the_teachers_squared_confidence() -> None:
    student = dense([[0.25, 0.5], [0.25, 0.5]])
    teacher = dense([[0.75, 0.5], [0.75, 0.5]])
    bce = -0.75 * ln(0.25) - 0.25 * ln(0.75)
    # Two places, one class of each differs; max_c sigma_t = 3/4, squares sum to 1.125.
    loss = SoftOutputKD()([student], [teacher])
    assert set(loss) == {'cls'}
    assert loss['cls'].item() == pytest.approx(2 * bce / 2 / 1.125, rel=1e-5)
    plain = SoftOutputKD(focus=1, class_weight=3)([student], [teacher])['cls']
    assert plain.item() == pytest.approx(3 * 2 * bce / 2 / 1.5, rel=1e-5)


def test_background_does_not_add_up_to_objects() -> None:
    # Two objects, of confidence 0.9 and 0.8; then 3,000 places of 0.02 beside them, as
    # student and teacher see them: 1.45 becomes 2.65. In a sum of f, 1.7 became 61.7.
    objects, empty = [[0.9], [0.8]], [[0.02]] * 3000
    teacher, student = dense(objects), dense([[0.5], [0.5]])
    alone = SoftOutputKD()([student], [teacher])['cls'].item()
    pair = [dense([[0.5], [0.5], *empty])], [dense(objects + empty)]
    among = SoftOutputKD()(*pair)['cls'].item()
    assert among == pytest.approx(alone * 1.45 / 2.65, rel=1e-4)
    ratio = SoftOutputKD(focus=1)(*pair)['cls'].item() / (alone * 1.45)
    assert ratio == pytest.approx(1 / 61.7, rel=1e-4)


def test_class_factors_give_each_class_equal_weight() -> None:
    # 3 and 1, mean 2: 2/3 and 2, which give 2 each; the sum stays 4.
    counts = torch.tensor([3.0, 1.0])
    assert MF.class_factors(counts, 1.0).tolist() == pytest.approx([2 / 3, 2])
    assert MF.class_factors(counts, 0.0).tolist() == pytest.approx([1, 1])
    # Square roots: 3/sqrt(3) + 1/1 = 2.732.
    half = [4 / 2.7320508 / 3**0.5, 4 / 2.7320508]
    assert MF.class_factors(counts, 0.5).tolist() == pytest.approx(half)
    # A class that is not there counts 1 before the sum is set: (4/9, 4/3, 1) * 3/2.
    with_absent = MF.class_factors(torch.tensor([3.0, 1.0, 0.0]), 1.0).tolist()
    assert with_absent == pytest.approx([2 / 3, 2, 1.5])
    # Of 3.9 and 0.1, the latter has 1/20 of the mean. From 1/10 on (v = 10) v falls
    # in proportion: to 5. 3.9 * 0.5128 + 0.1 * 5 = 2.5 is brought to 4.
    rare = MF.class_factors(torch.tensor([3.9, 0.1]), 1.0, rarest=0.1).tolist()
    assert rare == pytest.approx([1.6 * 2 / 3.9, 1.6 * 5])
    # No class is there at all.
    assert MF.class_factors(torch.zeros(2), 1.0).tolist() == [1, 1]


def test_balance_weights_rare_classes_in_classes_and_boxes() -> None:
    rest = [[0.5, 0.1]] * 3
    square, half = [0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.0]
    teacher = dense([[0.5, 0.5], *rest], [square] * 4)
    student = dense([[0.5, 0.25], *rest], [half] + [square] * 3)
    bce = -0.5 * ln(0.25) - 0.5 * ln(0.75)
    # The divisor is 4 * 1/4 = 1, with balance too.
    plain = SoftOutputKD(box_weight=1.0)([student], [teacher])
    assert plain['cls'].item() == pytest.approx(bce / 4, rel=1e-5)
    assert plain['box'].item() == pytest.approx(0.25 * 0.5, rel=1e-5)
    # Counts 4 * 0.25 = 1 and 0.25 + 3 * 0.01 = 0.28, mean 0.64: factors 0.64, 2.2857.
    loss = SoftOutputKD(box_weight=1.0, balance=1.0)
    balanced = loss([student], [teacher])
    factor = 0.64 / 0.28
    assert balanced['cls'].item() == pytest.approx(factor * bce / 4, rel=1e-5)
    assert balanced['box'].item() == pytest.approx(factor * 0.25 * 0.5, rel=1e-5)
    # A batch with counts 0.01 and 0.25: mean of both 0.505 and 0.265, factor
    # 0.385 / 0.265. The divisor is one per image.
    pair = [dense([[0.1, 0.25]])], [dense([[0.1, 0.5]])]
    second = loss(*pair)['cls'].item()
    assert second == pytest.approx(0.385 / 0.265 * bce / 4, rel=1e-5)


@pytest.mark.parametrize('balance', [-0.1, 1.1, float('nan')])
def test_balance_is_between_0_and_1(balance: float) -> None:
    with pytest.raises(ConfigError, match='balance'):
        SoftOutputKD(balance=balance)


def test_balance_is_for_sigmoid_heads() -> None:
    with pytest.raises(ConfigError, match='balance'):
        SoftOutputKD(balance=1.0, classes='softmax')


def test_boxes_are_decoded_only_where_they_are_compared() -> None:
    bins = torch.zeros(1, 1, 4, 3)
    ours = HeadOutput(torch.zeros(1, 1, 2), torch.zeros(1, 1, 4), bins)
    without = HeadOutput(torch.zeros(1, 1, 2), torch.zeros(1, 1, 4))
    assert not SoftOutputKD().needs_boxes(ours, ours)
    assert SoftOutputKD().needs_boxes(ours, without)
    assert SoftOutputKD(boxes='giou').needs_boxes(ours, ours)
    assert not SoftOutputKD(boxes='off').needs_boxes(ours, without)
    assert not SoftOutputKD(box_weight=0.0).needs_boxes(ours, without)


def test_without_objects_the_divisor_is_one_per_image() -> None:
    student, teacher = dense([[0.25]]), dense([[0.01]])
    bce = -0.01 * ln(0.25) - 0.99 * ln(0.75)
    loss = SoftOutputKD()([student], [teacher])['cls']
    assert loss.item() == pytest.approx(0.24 * bce / 1.0, rel=1e-5)


def test_without_objects_the_divisor_grows_with_the_images() -> None:
    student, teacher = dense([[0.25]]), dense([[0.01]])
    loss = SoftOutputKD()([student], [teacher])['cls']
    pairs = [[HeadOutput(torch.cat([side.scores] * 3))] for side in (student, teacher)]
    assert SoftOutputKD()(*pairs)['cls'].item() == pytest.approx(loss.item())


def test_the_confidence_of_softmax_heads_excludes_the_background() -> None:
    # One place of three is an object (1/2), two are background (1/2 against 1/4).
    object_, empty = [ln(2), 0.0, 0.0], [0.0, 0.0, ln(2)]
    teacher = HeadOutput(torch.tensor([[object_, empty, empty]]))
    student = HeadOutput(torch.zeros(1, 3, 3))
    kl = 0.5 * ln(1.5) + 2 * 0.25 * ln(0.75)
    # Confidence of foreground, which is all but the last: 1/4 + 1/16 + 1/16 = 3/8, so
    # one per image; eight times as many places: 3, for eight times the loss.
    for times, divisor in ((1, 1.0), (8, 3.0)):
        given = [
            [HeadOutput(torch.cat([side.scores] * times, 1))]
            for side in (student, teacher)
        ]
        loss = SoftOutputKD(activation='softmax')(*given)['cls']
        assert loss.item() == pytest.approx(3 * times * kl / divisor, rel=1e-5)


def test_box_distributions() -> None:
    # One side of four differs: KL((3/4, 1/4) || (1/2, 1/2)), logits 10 times at tau 10.
    kl = 0.75 * ln(1.5) + 0.25 * ln(0.5)
    even = [[0.0, 0.0]] * 4
    sure = [[10 * ln(3), 0.0], *even[1:]]
    student = dense([[0.8], [0.9]], bins=[even, even])
    teacher = dense([[0.8], [0.9]], bins=[sure, even])
    loss = SoftOutputKD(box_weight=1)([student], [teacher])
    assert loss['cls'].item() == pytest.approx(0, abs=1e-6)
    assert loss['box'].item() == pytest.approx(100 * kl / 4 * 0.64 / 1.45, rel=1e-4)
    default = SoftOutputKD()([student], [teacher])['box']
    assert default.item() == pytest.approx(loss['box'].item() * 0.35)


def test_boxes_without_distributions() -> None:
    # 2x2 boxes one apart: overlap 2, union 6, hull 6. GIoU 1/3.
    # Disjoint 1x1 boxes one apart: IoU 0, union 2, hull 3. GIoU -1/3.
    student = dense([[0.8], [0.9]], boxes=[[0.0, 0, 2, 2], [0.0, 0, 1, 1]])
    teacher = dense([[0.8], [0.9]], boxes=[[1.0, 0, 3, 2], [2.0, 0, 3, 1]])
    loss = SoftOutputKD(box_weight=1)([student], [teacher])['box']
    wanted = (0.64 * (2 / 3) + 0.81 * (4 / 3)) / 1.45
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_a_mask_weights_positions() -> None:
    student, teacher = dense([[0.25], [0.3]]), dense([[0.75], [0.9]])
    first = SoftOutputKD()([student], [teacher], [torch.tensor([[1.0, 0.0]])])['cls']
    alone = SoftOutputKD()([dense([[0.25]])], [dense([[0.75]])])['cls']
    assert first.item() == pytest.approx(alone.item())


def test_boxes_are_compared_in_the_best_form_that_both_heads_offer() -> None:
    box, bins = [[0.0, 0, 2, 2]], [[[0.0, 1.0]] * 4]
    both, plain = dense([[0.5]], box, bins), dense([[0.5]], box)
    other_bins = dense([[0.5]], [[0.0, 0, 1, 1]], [[[0.0, 1.0, 2.0]] * 4])
    bare = dense([[0.5]])
    assert 'box' in SoftOutputKD()([both], [both])
    assert 'box' in SoftOutputKD()([both], [plain])
    # 1x1 in 2x2: GIoU 1/4.
    loss = SoftOutputKD(box_weight=1)([other_bins], [both])['box']
    assert loss.item() == pytest.approx(0.75 * 0.25 / 1.0)
    assert set(SoftOutputKD()([bare], [both])) == {'cls'}
    assert set(SoftOutputKD(boxes='off')([both], [both])) == {'cls'}
    with pytest.raises(HeadKindError, match='student scores, boxes;'):
        SoftOutputKD(boxes='distribution')([plain], [both])
    with pytest.raises(ShapeMismatchError, match='box distributions'):
        SoftOutputKD(boxes='distribution')([other_bins], [both])
    with pytest.raises(HeadKindError, match="boxes='giou'"):
        SoftOutputKD(boxes='giou')([both], [bare])


@pytest.mark.parametrize(
    'head, asked', [('sigmoid', 'softmax'), ('softmax', 'sigmoid')]
)
def test_a_loss_for_the_other_kind_of_head_is_an_error(head: str, asked: str) -> None:
    with pytest.raises(HeadKindError, match=f'a {asked} loss on a {head} head'):
        SoftOutputKD(activation=head, classes=asked)
    assert SoftOutputKD(activation=head).classes == head
    assert SoftOutputKD(activation=head, classes=head).classes == head


def test_other_class_counts_are_an_error() -> None:
    with pytest.raises(ShapeMismatchError, match='class scores'):
        SoftOutputKD()([dense([[0.5]])], [dense([[0.5, 0.5]])])
    with pytest.raises(ShapeMismatchError, match='logits'):
        SoftOutputKD()([torch.zeros(2, 3)], [torch.zeros(2, 4)])


def test_logits_of_maps_have_their_classes_in_the_second_dimension() -> None:
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    rows = [x.permute(0, 2, 3, 1).reshape(2, 20, 3) for x in (student, teacher)]
    for classes in ('softmax', 'sigmoid'):
        loss = SoftOutputKD(classes=classes)
        assert loss([student], [teacher]).item() == pytest.approx(
            loss(rows[:1], rows[1:]).item(), rel=1e-5
        )


@pytest.mark.parametrize('shape', [(2, 20, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize('classes', ['softmax', 'sigmoid'])
def test_samples_are_weighted_in_logits_with_positions(
    shape: tuple[int, ...], classes: str
) -> None:
    student, teacher = torch.randn(shape), torch.randn(shape) + 5  # sure of objects
    loss = SoftOutputKD(classes=classes)
    mask = as_mask(torch.tensor([2.0, 0.0]), teacher)
    first = loss([student], [teacher], [mask])
    alone = loss([student[:1]], [teacher[:1]])
    assert first.item() == pytest.approx(alone.item(), rel=1e-5)


def test_sigmoid_logits_of_whole_images_are_averaged_over_images() -> None:
    bce = -0.75 * ln(0.25) - 0.25 * ln(0.75)
    student = torch.full((4, 2), logit(0.25))
    teacher = torch.full((4, 2), logit(0.75))
    loss = SoftOutputKD(classes='sigmoid')([student], [teacher])
    assert loss.item() == pytest.approx(2 * bce / 2, rel=1e-5)


@pytest.mark.parametrize(
    'bad',
    [
        dict(classes='both'),
        dict(activation='focal'),
        dict(boxes='iou'),
        dict(tau=0),
        dict(box_tau=-1),
        dict(beta=0.5),
        dict(box_weight=-1),
        dict(class_weight=float('nan')),
        dict(weight=-1),
    ],
)
def test_impossible_arguments_of_soft_outputs(bad: dict) -> None:
    with pytest.raises(ConfigError):
        SoftOutputKD(**bad)


# -------------------------------------------------------------------- relation


def test_fsp_matrix() -> None:
    first = maps([1.0, 2.0], [0.0, 3.0], width=2)
    second = maps([1.0, 1.0], [2.0, 0.0], width=2)
    # Over two positions: (1+2, 2+0 ; 0+3, 0) / 2.
    wanted = torch.tensor([[[1.5, 1.0], [1.5, 0.0]]])
    assert torch.allclose(MF.fsp_matrix(first, second), wanted)
    # Only the second position counts, however much it counts.
    mask = torch.tensor([0.0, 7.0]).reshape(1, 1, 1, 2)
    wanted = torch.tensor([[[2.0, 0.0], [3.0, 0.0]]])
    assert torch.allclose(MF.fsp_matrix(first, second, mask), wanted)


def test_fsp_pools_to_the_smaller_map() -> None:
    first = maps([1.0, 3.0, 5.0, 7.0], width=2)  # mean 4
    assert MF.fsp_matrix(first, maps([2.0], width=1)).item() == 8.0
    assert MF.fsp_matrix(maps([2.0], width=1), first).item() == 8.0


def test_relation_of_channels() -> None:
    # One position: G_s = (3, 4) of norm 5, G_t = (1, 0).
    student = [maps([1.0], width=1), maps([3.0], [4.0], width=1)]
    teacher = [maps([1.0], width=1), maps([1.0], [0.0], width=1)]
    # |(0.6, 0.8) - (1, 0)|^2 = 0.16 + 0.64
    assert RelationKD()(student, teacher).item() == pytest.approx(0.8)
    plain = RelationKD(normalize=False)(student, teacher)
    assert plain.item() == pytest.approx(2**2 + 4**2)


def test_relation_is_the_mean_over_consecutive_levels() -> None:
    a, b = maps([1.0], [0.0], width=1), maps([0.0], [1.0], width=1)
    # Student a-b-b, teacher a-b-a: the first flow is equal, the second orthogonal.
    assert RelationKD()([a, b, b], [a, b, a]).item() == pytest.approx((0 + 2) / 2)


def test_relation_of_channels_needs_two_levels() -> None:
    level = [torch.randn(1, 2, 3, 3)]
    with pytest.raises(ShapeMismatchError, match='consecutive levels'):
        RelationKD()(level, level)
    RelationKD(relation='spatial')(level, level)


def test_relation_of_positions() -> None:
    # Student: positions (1, 0), (0, 1), cosine 0. Teacher: both (1, 1, 1), cosine 1.
    student = [maps([1.0, 0.0], [0.0, 1.0], width=2)]
    teacher = [torch.ones(1, 3, 1, 2)]
    loss = RelationKD(relation='spatial')
    # Differences: 0 on the diagonal, 1 at the two other entries of four.
    assert loss(student, teacher).item() == pytest.approx(0.5)
    assert loss.demands == frozenset()
    assert RelationKD().demands == {'same_channels'}
    # Weights 3/4, 1/4: 2 * 3/16.
    mask = [torch.tensor([3.0, 1.0]).reshape(1, 1, 1, 2)]
    assert loss(student, teacher, mask).item() == pytest.approx(2 * 3 / 16)


@pytest.mark.parametrize('masked', [False, True])
def test_relation_of_positions_is_that_of_the_whole_matrices(masked: bool) -> None:
    student, teacher = torch.randn(3, 2, 4, 5), torch.randn(3, 7, 4, 5)
    mask = torch.rand(3, 1, 4, 5) if masked else torch.ones(3, 1, 4, 5)
    cosines = [
        torch.cosine_similarity(x.flatten(2)[..., None], x.flatten(2)[..., None, :], 1)
        for x in (student, teacher)
    ]
    weights = mask.flatten(1) / mask.flatten(1).sum(1, keepdim=True)
    squared = (cosines[0] - cosines[1]).square()
    wanted = torch.einsum('nij,ni,nj->n', squared, weights, weights).mean()
    loss = RelationKD(relation='spatial')
    value = loss([student], [teacher], [mask] if masked else None)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-4)


def test_relation_of_positions_works_on_large_maps() -> None:
    # The matrices would have 4 * 10^9 entries.
    student, teacher = torch.randn(1, 2, 200, 300), torch.randn(1, 2, 200, 300)
    assert RelationKD(relation='spatial')([student], [teacher]).isfinite()


def test_an_unknown_relation_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match='channel, spatial'):
        RelationKD(relation='layer')


# ------------------------------------------------------------------- attention


def test_attention() -> None:
    # Sums of squares (9, 16) -> (9, 16)/sqrt(337) and (1, 0) -> (1, 0).
    student = maps([3.0, 0.0], [0.0, 4.0], width=2)
    teacher = maps([1.0, 0.0], width=2)
    norm = math.sqrt(9**2 + 16**2)
    wanted = (9 / norm - 1) ** 2 + (16 / norm) ** 2
    assert AttentionKD()([student], [teacher]).item() == pytest.approx(wanted, rel=1e-5)


def test_attention_pools_the_larger_map() -> None:
    # Squares (1, 9, 0, 0) over a row of four pool to (5, 0).
    student = maps([1.0, 3.0, 0.0, 0.0], width=4)
    teacher = maps([1.0, 1.0], width=2)
    wanted = (1 - math.sqrt(0.5)) ** 2 + 0.5
    for pair in ([student], [teacher]), ([teacher], [student]):
        assert AttentionKD()(*pair).item() == pytest.approx(wanted, rel=1e-5)


def test_attention_of_vectors_is_an_error_not_a_silent_zero() -> None:
    with pytest.raises(ShapeMismatchError, match='FeatureKD'):
        AttentionKD()([torch.ones(2, 3)], [torch.ones(2, 3)])
    with pytest.raises(ShapeMismatchError, match='FeatureKD'):
        RelationKD(relation='spatial')([torch.ones(2, 3)], [torch.ones(2, 3)])


def test_attention_under_a_mask() -> None:
    mask = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    student, teacher = maps([1.0, 5.0], width=2), maps([2.0, 0.5], width=2)
    assert AttentionKD()([student], [teacher]).item() > 0.1
    assert AttentionKD()([student], [teacher], [mask]).item() == pytest.approx(0)


# -------------------------------------------------------------------- features


def test_features_l2() -> None:
    student, teacher = maps([1.0, 2.0], width=2), maps([0.0, 4.0], width=2)
    assert FeatureKD(form='l2')([student], [teacher]).item() == pytest.approx(2.5)
    mask = torch.tensor([3.0, 1.0]).reshape(1, 1, 1, 2)
    weighted = FeatureKD(form='l2')([student], [teacher], [mask])
    assert weighted.item() == pytest.approx((3 * 1 + 1 * 4) / 4)
    # In sums: squares 1 and 4, of one image, on each of two levels.
    summed = FeatureKD(form='l2_sum')
    assert summed([student] * 2, [teacher] * 2).item() == pytest.approx(2 * 5)
    assert summed([student], [teacher], [mask]).item() == pytest.approx(3 * 1 + 1 * 4)
    two = [torch.cat([x, x]) for x in (student, teacher)]
    assert summed(two[:1], two[1:]).item() == pytest.approx(5)


def test_features_count_more_where_the_teacher_is_active() -> None:
    """Its attention is (0, 16), in parts of the mean (0, 2)."""
    student, teacher = maps([1.0, 2.0], width=2), maps([0.0, 4.0], width=2)
    half = FeatureKD(form='l2', attend=0.5)
    assert half([student], [teacher]).item() == pytest.approx((0.5 * 1 + 1.5 * 4) / 2)
    whole = FeatureKD(form='l2_sum', attend=1.0)
    assert whole([student], [teacher]).item() == pytest.approx(2 * 4)
    mask = torch.tensor([3.0, 1.0]).reshape(1, 1, 1, 2)
    both = half([student], [teacher], [mask])
    assert both.item() == pytest.approx((1.5 * 1 + 1.5 * 4) / 3)
    dark = torch.zeros(1, 2, 1, 3)
    assert torch.isfinite(FeatureKD(attend=1.0)([torch.ones(1, 2, 1, 3)], [dark]))


def test_features_pearson_is_one_minus_the_correlation() -> None:
    student = maps([1.0, 2.0, 3.0], [1.0, 0.0, 5.0], width=3)
    teacher = maps([1.0, 3.0, 2.0], [-2.0, 0.0, -10.0], width=3)
    # Channel 1: r = 1/2. Channel 2, less the means (2, -4): (-1, -2, 3) and
    # (2, 4, -6), so r = -1.
    r = -1.0
    wanted = 1 - (0.5 + r) / 2
    loss = FeatureKD()([student], [teacher])
    assert loss.item() == pytest.approx(wanted, rel=1e-4)


def test_features_pearson_uses_only_masked_positions() -> None:
    student = maps([1.0, 2.0, 3.0, 90.0], width=4)
    teacher = maps([1.0, 3.0, 2.0, -70.0], width=4)
    mask = torch.tensor([1.0, 1.0, 1.0, 0.0]).reshape(1, 1, 1, 4)
    loss = FeatureKD()([student], [teacher], [mask])
    assert loss.item() == pytest.approx(0.5, rel=1e-4)


def test_features_as_distributions_over_positions() -> None:
    kl = 0.75 * ln(1.5) + 0.25 * ln(0.5)
    student = torch.zeros(1, 2, 1, 2)
    teacher = maps([2 * ln(3), 0.0], [5.0, 5.0], width=2)
    loss = FeatureKD(form='channel', tau=2)([student], [teacher])
    # The second channel agrees: mean of (4 kl, 0).
    assert loss.item() == pytest.approx(2 * kl, rel=1e-5)
    # Weights (1, 3) make the teacher even and the student (1/4, 3/4).
    mask = torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 2)
    loss = MF.channel_kl(student, teacher, 2, mask)[0]
    assert loss[0].item() == pytest.approx(
        4 * (0.5 * ln(2) + 0.5 * ln(2 / 3)), rel=1e-5
    )
    assert loss[1].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('form', ['l2', 'pearson', 'channel'])
def test_features_of_vectors_and_tokens_are_those_of_maps(form: str) -> None:
    loss = FeatureKD(form=form)
    student, teacher = torch.randn(4, 3, 6, 1), torch.randn(4, 3, 6, 1)
    tokens = [x.squeeze(-1).transpose(1, 2) for x in (student, teacher)]
    assert loss([student], [teacher]).item() == pytest.approx(
        loss(tokens[:1], tokens[1:]).item()
    )
    vectors = [x[:, :, :1] for x in (student, teacher)]
    assert loss(vectors[:1], vectors[1:]).item() == pytest.approx(
        loss([vectors[0].flatten(1)], [vectors[1].flatten(1)]).item()
    )


@pytest.mark.parametrize(
    'bad',
    [
        dict(form='cosine'),
        dict(tau=0.0),
        dict(attend=1.5),
        dict(attend='a'),
        dict(form='channel', attend=0.5),
    ],
)
def test_impossible_arguments_of_features(bad: dict) -> None:
    with pytest.raises(ConfigError):
        FeatureKD(**bad)


# ---------------------------------------------------------- decorrelation, unit


def test_decorrelation() -> None:
    # Centred: (1, -1) against (2, -2), cosine 1, and against (0, 0).
    inherit = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    explore = torch.tensor([[5.0, 1.0], [3.0, 3.0]])
    assert MF.decorrelation(inherit, explore).item() == pytest.approx(0.5, rel=1e-5)
    # cos^2 between (1, 0, -1) and (1, -1, 0) is 1/4.
    a, b = torch.tensor([[1.0, 0, -1]]), torch.tensor([[1.0, -1, 0]])
    assert MF.decorrelation(a, b).item() == pytest.approx(0.25, rel=1e-5)
    assert MF.decorrelation(a, -100 * b).item() == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize('inherit', [0.0, 1e-20, 1.0, 1e6])
@pytest.mark.parametrize('explore', [0.0, 1e-20, 1.0, 1e6])
def test_decorrelation_has_finite_gradients(inherit: float, explore: float) -> None:
    a = (torch.randn(2, 4, 3, 3) * inherit).requires_grad_()
    b = (torch.randn(2, 4, 3, 3) * explore).requires_grad_()
    loss = MF.decorrelation(a, b)
    loss.backward()
    assert 0 <= loss.item() <= 1 + 1e-5
    assert a.grad is not None and a.grad.isfinite().all()
    assert b.grad is not None and b.grad.isfinite().all()
    assert inherit != 1 or b.grad.abs().max() < 1e4


def test_l2_normalize_gives_zeros_no_gradient_and_keeps_nan() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    out = MF.l2_normalize(x, dim=1)
    assert torch.equal(out.detach(), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    out.sum().backward()
    assert x.grad is not None and torch.equal(x.grad[1], torch.zeros(2))
    assert MF.l2_normalize(torch.tensor([[math.nan, 1.0]]), dim=1).isnan().all()


# ------------------------------------------------------- difficulty, by sample


def test_difficulty_is_the_distance_of_probabilities() -> None:
    teacher = torch.tensor([[1.0, 0.0], [0.7, 0.3], [0.5, 0.5]])
    pruned = torch.tensor([[0.0, 1.0], [0.3, 0.7], [0.5, 0.5]])
    expected = [math.sqrt(2), 0.4 * math.sqrt(2), 0.0]
    assert MF.difficulty(teacher, pruned).tolist() == pytest.approx(expected)


def test_ranks_run_from_0_to_1_and_are_equal_for_equal_values() -> None:
    assert MF.normalized_ranks(torch.tensor([0.3, 0.1, 0.9])).tolist() == [
        0.5,
        0.0,
        1.0,
    ]
    assert MF.normalized_ranks(torch.tensor([2.0, 1.0, 2.0])).tolist() == [
        1.0,
        0.0,
        1.0,
    ]
    assert MF.normalized_ranks(torch.tensor([5.0, 5.0])).tolist() == [0.0, 0.0]
    assert MF.normalized_ranks(torch.tensor([5.0])).tolist() == [0.0]


def _two_samples() -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Student even; teacher 3:1 and 1:3; pruned agrees on the first sample, and says
    the contrary (3:1) of the second: d = 0 and sqrt(2) / 2."""
    teacher = torch.tensor([[ln(3), 0.0], [0.0, ln(3)]])
    return [torch.zeros(2, 2)], [teacher], [teacher[[0, 0]]]


def _kl_at(tau: float) -> float:
    """Return tau^2 KL between logits (ln 3, 0) and equal logits."""
    p = 3 ** (1 / tau) / (3 ** (1 / tau) + 1)
    return tau**2 * (p * ln(2 * p) + (1 - p) * ln(2 * (1 - p)))


@pytest.mark.parametrize('map, taus', [('rank', (2, 6)), ('linear', (2, 4))])
def test_dlkd_softens_difficult_samples_more(
    map: str, taus: tuple[float, float]
) -> None:
    student, teacher, pruned = _two_samples()
    loss = DLKD(tau_min=2, tau_max=6, map=map)  # type: ignore[arg-type]
    value = loss(student, teacher, pruned=pruned)
    assert value.item() == pytest.approx(
        (_kl_at(taus[0]) + _kl_at(taus[1])) / 2, rel=1e-4
    )
    assert loss.difficulties.tolist() == pytest.approx([0, math.sqrt(2) / 2])


def test_dlkd_at_one_temperature_is_plain_distillation() -> None:
    student, teacher, pruned = _two_samples()
    value = DLKD(tau_min=3, tau_max=3)(student, teacher, pruned=pruned)
    assert value.item() == pytest.approx(SoftOutputKD(tau=3)(student, teacher).item())


def test_dlkd_beyond_the_entropy_ranks_what_the_entropy_does_not_say() -> None:
    # Entropies rise from the first to the last; so do distances, but for the second.
    even = torch.tensor([0.95, 0.9, 0.8, 0.7])
    teacher = torch.stack([even, 1 - even], 1).log()
    apart = even - torch.tensor([0.01, 0.30, 0.05, 0.10])
    pruned = torch.stack([apart, 1 - apart], 1).log()
    given = [torch.zeros(4, 2)], [teacher]
    loss = DLKD(tau_min=1, tau_max=2, beyond_entropy=True)
    loss(*given, pruned=[pruned])
    assert loss.difficulties.argsort().tolist() == [0, 2, 3, 1]
    assert loss.entropies.argsort().tolist() == [0, 1, 2, 3]
    assert loss.agreeing.tolist() == [True] * 4
    left = MF.unexplained(loss.difficulties, loss.entropies)
    # Ranks 0, 1, 1/3, 2/3 against 0, 1/3, 2/3, 1: the slope is 0.4.
    centred = torch.tensor([-0.5, 0.5, -1 / 6, 1 / 6])
    by = torch.tensor([-0.5, -1 / 6, 1 / 6, 0.5])
    torch.testing.assert_close(left, centred - 0.4 * by)
    with pytest.raises(ConfigError, match='for ranks'):
        DLKD(map='linear', beyond_entropy=True)


def test_dlkd_on_a_dense_head_looks_where_the_teacher_is_confident() -> None:
    # Three places: sure, sure and difficult, and nothing there (below 0.05).
    student = dense([[0.5], [0.5], [0.5]])
    teacher = dense([[0.8], [0.8], [0.01]])
    pruned = dense([[0.8], [0.3], [0.9]])
    loss = DLKD(tau_min=1, tau_max=2, activation='sigmoid')
    value = loss([student], [teacher], pruned=[pruned])
    assert loss.difficulties.tolist() == pytest.approx([0, 0.5 * math.sqrt(2)])

    def kl(tau: float) -> float:
        p = 1 / (1 + 0.25 ** (1 / tau))
        return tau**2 * (p * ln(2 * p) + (1 - p) * ln(2 * (1 - p)))

    # Weights 0.8 and 0.8, over their sum of 1.6.
    assert value.item() == pytest.approx((kl(1) + kl(2)) / 2, rel=1e-5)


def test_dlkd_without_the_pruned_teacher_says_how_to_write_it() -> None:
    with pytest.raises(ConfigError, match='prune_of'):
        DLKD()([torch.zeros(1, 2)], [torch.zeros(1, 2)])


@pytest.mark.parametrize(
    'bad',
    [dict(tau_min=0), dict(tau_min=3, tau_max=2), dict(map='no'), dict(confident=1)],
)
def test_dlkd_refuses_impossible_settings(bad: dict) -> None:
    with pytest.raises(ConfigError, match='DLKD'):
        DLKD(**bad)


def test_a_mask_of_samples_weights_the_mean() -> None:
    student = [torch.zeros(2, 2)]
    teacher = [torch.tensor([[ln(3), 0.0], [0.0, 0.0]])]
    mask = [torch.tensor([3.0, 1.0]).reshape(2, 1, 1, 1)]
    kl = 0.75 * ln(1.5) + 0.25 * ln(0.5)
    value = SoftOutputKD()(student, teacher, mask=mask)
    assert value.item() == pytest.approx(3 / 4 * kl, rel=1e-5)


# ------------------------------------------------------------------------ DIST


def test_dist_is_one_minus_the_correlations_within_samples_and_classes() -> None:
    student = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    teacher = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.2, 0.7]])
    # First sample, times 30: (5, -1, -4) and (5, -4, -1): 33 / 42. The second: 1.
    within = (1 - 33 / 42) / 2
    # Columns of two: both fall, (0.2, 0.2) does not vary, both rise: nothing is lost.
    loss = total(DIST(beta=2.0, gamma=1.0)([student.log()], [teacher.log()]))
    assert loss.item() == pytest.approx(2 * within, rel=1e-4)
    # Columns that go against each other: 1 - (-1), of two in three.
    turned = teacher.flip(0)
    between = DIST(beta=0.0, gamma=3.0)([teacher.log()], [turned.log()])['samples']
    assert between.item() == pytest.approx(3 * (2 + 0 + 2) / 3, rel=1e-4)


def test_dist_has_the_square_of_the_temperature() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    one = total(DIST()([student], [teacher]))
    warm = total(DIST(tau=3.0)([3 * student], [3 * teacher]))
    assert warm.item() == pytest.approx(9 * one.item(), rel=1e-4)


def test_dist_is_invariant_to_scale_and_shift_of_probabilities() -> None:
    teacher = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]])
    softer = 0.5 * teacher + 0.5 / 3
    loss = total(DIST()([softer.log()], [teacher.log()]))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_dist_of_one_sample_has_one_part() -> None:
    student, teacher = torch.randn(1, 5, requires_grad=True), torch.randn(1, 5)
    parts = DIST()([student], [teacher])
    assert parts['samples'] == 0
    whole = total(parts)
    whole.backward()
    assert student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize('scale', [1e-30, 1e-12, 1e-5, 1e3])
def test_distances_of_small_numbers_are_those_of_large_ones(scale: float) -> None:
    """Probabilities of a thousand classes are small, and are no constants."""
    one, other = torch.rand(4, 8), torch.rand(4, 8)
    wanted = [1 - np.corrcoef(u, v)[0, 1] for u, v in zip(one.numpy(), other.numpy())]
    found = MF.pearson_distance(one * scale, other * scale)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float32))


def test_constant_rows_have_no_distance_and_no_gradient() -> None:
    one = torch.tensor([[0.1] * 8, [0.0] * 8, [1e-9] * 8], requires_grad=True)
    distance = MF.pearson_distance(one, torch.rand(3, 8))
    assert distance.tolist() == [0.0] * 3
    distance.sum().backward()
    assert one.grad is not None and not one.grad.any()


@pytest.mark.parametrize(
    'bad', [dict(beta=-1.0), dict(beta=0.0, gamma=0.0), dict(tau=0)]
)
def test_dist_with_impossible_settings(bad: dict) -> None:
    with pytest.raises(ConfigError, match='DIST'):
        DIST(**bad)
