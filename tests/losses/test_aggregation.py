"""LossAggregation: each class loss by hand, and its three uses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.losses import FocalLoss, QualityFocalLoss
from mmengine.registry import MODELS
from torch import Tensor

import tiny
import tiny_images
from mkd_det.errors import ConfigError, HeadKindError, ShapeMismatchError
from mkd_det.losses.outputs.aggregation import LossAggregation
from mkd_det.structures import HeadOutput

ln = math.log


def logit(p: float) -> float:
    return ln(p / (1 - p))


def only(**member: Any) -> LossAggregation:
    return LossAggregation(losses=[member])


# Softmax (3/4, 1/4).
SOFTMAX = torch.tensor([[ln(3), 0.0]])
# Independent, 3/4 and 2/5.
SIGMOID = torch.tensor([[logit(0.75), logit(0.4)]])
FIRST = torch.tensor([0])
EVEN = torch.tensor([[0.5, 0.5]])

# With beta 1/2, 1 and 2 samples have the effective numbers 1 and 3/2, so the weights
# are as 1 to 2/3: of mean 1, 6/5 and 4/5.
BALANCED = dict(type='BalancedCE', counts=[1, 2], beta=0.5)
FOCAL = dict(type='Focal', use_sigmoid=True)
BY_HAND: list[tuple[dict, Tensor, Tensor, float]] = [
    (dict(type='CE'), SOFTMAX, FIRST, -ln(0.75)),
    (dict(type='CE'), SOFTMAX, EVEN, -ln(0.75) / 2 - ln(0.25) / 2),
    (BALANCED, SOFTMAX, FIRST, -1.2 * ln(0.75)),
    (BALANCED, SOFTMAX, EVEN, -ln(0.75) / 2 - ln(0.25) / 2),
    (dict(type='BinaryCE'), SIGMOID, FIRST, -ln(0.75) - ln(0.6)),
    (
        dict(type='BinaryCE'),
        SIGMOID,
        EVEN,
        -(ln(0.75) + ln(0.25) + ln(0.4) + ln(0.6)) / 2,
    ),
    (dict(type='Focal'), SOFTMAX, FIRST, -(0.25**2) * ln(0.75)),
    (dict(type='Focal', gamma=0.0), SOFTMAX, FIRST, -ln(0.75)),
    (
        dict(type='Focal'),
        SOFTMAX,
        EVEN,
        # |t - p| is 1/4 for both classes.
        -(0.25**2) * (ln(0.75) + ln(0.25)) / 2,
    ),
    (
        FOCAL,
        SIGMOID,
        FIRST,
        -0.25 * 0.25**2 * ln(0.75) - 0.75 * 0.4**2 * ln(0.6),
    ),
    # |t - sigma| is 1/4 and 1/10; alpha and 1 - alpha have the mean 1/2.
    (
        FOCAL,
        SIGMOID,
        EVEN,
        -(0.25**2 * (ln(0.75) + ln(0.25)) + 0.1**2 * (ln(0.4) + ln(0.6))) / 4,
    ),
]


@pytest.mark.parametrize('member, logits, target, wanted', BY_HAND)
def test_each_member_on_labels_and_on_probabilities(
    member: dict, logits: Tensor, target: Tensor, wanted: float
) -> None:
    loss = only(**member)(logits, target)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_the_sum_is_weighted_and_a_mean_over_samples() -> None:
    losses = [dict(type='CE'), dict(type='Focal')]
    loss = LossAggregation(losses, weights=[1.0, 2.0], loss_weight=3.0)
    logits, labels = SOFTMAX.repeat(2, 1), torch.tensor([0, 1])
    first = -ln(0.75) * (1 + 2 * 0.25**2)
    second = -ln(0.25) * (1 + 2 * 0.75**2)
    assert loss(logits, labels).item() == pytest.approx(3 * (first + second) / 2)
    # As mmdet's heads ask: a weight of each sample, and what to divide by.
    weighted = loss(logits, labels, torch.tensor([0.0, 1.0]), avg_factor=4)
    assert weighted.item() == pytest.approx(3 * second / 4)
    each = loss(logits, labels, reduction_override='none')
    assert each.tolist() == pytest.approx([3 * first, 3 * second])
    whole = loss(logits, labels, reduction_override='sum')
    assert whole.item() == pytest.approx(3 * (first + second))


@pytest.mark.parametrize('samples', [1, 7])
def test_learned_weights_do_not_depend_on_the_number_of_samples(samples: int) -> None:
    # Factors 1/2 and 1; ln 2 / 2 keeps the first from 0.
    loss = LossAggregation([dict(type='CE'), dict(type='Focal')], weights='learned')
    with torch.no_grad():
        loss.log_variances.copy_(torch.tensor([ln(2), 0.0]))
    wanted = -ln(0.75) * (0.5 + 0.25**2)
    logits, labels = SOFTMAX.repeat(samples, 1), FIRST.repeat(samples)
    value = loss(logits, labels)
    assert value.item() == pytest.approx(wanted + ln(2) / 2)
    value.backward()
    # d/ds of exp(-s) L + s/2.
    first = 0.5 - 0.5 * -ln(0.75)
    assert loss.log_variances.grad[0].item() == pytest.approx(first)
    divided = loss(logits, labels, avg_factor=2 * samples)
    assert divided.item() == pytest.approx(wanted / 2 + ln(2) / 2)


def test_a_term_meets_the_teachers_probabilities_at_the_temperature() -> None:
    # At tau 2, logits (2 ln 3, 0) are 3/4 and 1/4; tau^2 is 4.
    student, teacher = torch.zeros(1, 2), 2 * SOFTMAX
    loss = LossAggregation([dict(type='CE'), BALANCED], tau=2.0)
    even = -ln(0.5)
    wanted = 4 * (even + even * (0.75 * 1.2 + 0.25 * 0.8))
    assert loss([student], [teacher]).item() == pytest.approx(wanted)


def test_a_term_of_dense_heads_is_divided_by_the_teachers_squared_confidence() -> None:
    student = HeadOutput(torch.zeros(1, 2, 1))
    teacher = HeadOutput(torch.tensor([[[logit(0.75)], [logit(0.9)]]]))
    loss = LossAggregation(activation='sigmoid')
    # ln 2 at each place, over 9/16 + 0.81.
    assert loss([student], [teacher]).item() == pytest.approx(2 * ln(2) / 1.3725)
    plain = LossAggregation(activation='sigmoid', focus=1)([student], [teacher])
    assert plain.item() == pytest.approx(2 * ln(2) / 1.65)
    half = loss([student], [teacher], [torch.tensor([[1.0, 0.0]])])
    assert half.item() == pytest.approx(ln(2) / 1)
    assert not loss.needs_boxes(student, teacher)


# ------------------------------------------------------------- as others have it


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


def scores(count: int = 12, classes: int = 3) -> Tensor:
    return torch.randn(count, classes, requires_grad=True)


def test_cross_entropy_is_torchs() -> None:
    logits, labels = scores(), torch.arange(12) % 3
    ours, theirs = only(type='CE')(logits, labels), F.cross_entropy(logits, labels)
    assert torch.allclose(ours, theirs)
    assert torch.allclose(gradient(ours, logits), gradient(theirs, logits), atol=1e-7)


def test_focal_is_mmdets_background_included() -> None:
    logits, labels = scores(), torch.arange(12) % 4  # 3 is the background
    weight = torch.rand(12)
    ours = LossAggregation([FOCAL], use_sigmoid=True, loss_weight=2.0)
    theirs = FocalLoss(use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0)
    a, b = (loss(logits, labels, weight, avg_factor=5) for loss in (ours, theirs))
    assert torch.allclose(a, b)
    assert torch.allclose(gradient(a, logits), gradient(b, logits), atol=1e-7)


def test_focal_without_alpha_is_mmdets_quality_focal_loss() -> None:
    logits, labels, quality = scores(), torch.arange(12) % 4, torch.rand(12)
    quality[labels == 3] = 0
    ours = LossAggregation([{**FOCAL, 'alpha': None}], use_sigmoid=True)
    theirs = QualityFocalLoss(use_sigmoid=True, beta=2.0)
    a, b = (loss(logits, (labels, quality), avg_factor=5.0) for loss in (ours, theirs))
    assert torch.allclose(a, b)


# ----------------------------------------------------------------- in its places

SOFTMAX_LOSSES = [
    dict(type='CE'),
    dict(type='BalancedCE', counts=[10, 20, 40]),
    dict(type='Focal'),
]
SIGMOID_LOSSES = [dict(type='BinaryCE'), FOCAL]


def step(model: Any, batch: dict) -> dict[str, Tensor]:
    """Run one training step with backward; return the logged losses."""
    data = model.train().data_preprocessor(batch, training=True)
    total, log = model.parse_losses(model(**data, mode='loss'))
    assert total.isfinite()
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    return log


def moved(module: torch.nn.Module) -> bool:
    """Return whether all parameters have gradients that are not zero."""
    return all(p.grad is not None and p.grad.any() for p in module.parameters())


@pytest.mark.parametrize('weights', [None, 'learned'])
def test_as_the_loss_of_a_classifier(weights: Any) -> None:
    loss = dict(type='LossAggregation', losses=SOFTMAX_LOSSES, weights=weights)
    model = tiny_images.build(tiny_images.classifier(loss=loss))
    assert step(model, tiny_images.batch())['loss_cls'] > 0
    assert moved(model)


def test_as_a_term_on_logits() -> None:
    term = dict(type='LossAggregation', student='logits', teacher='t.logits', tau=4.0)
    model = MODELS.build(
        dict(
            type='Distiller',
            student=tiny_images.classifier(),
            teachers=dict(t=dict(cfg=tiny_images.classifier(14), checkpoint=None)),
            taps=dict(logits='head'),
            terms=dict(
                loss_sum=dict(**term, losses=SOFTMAX_LOSSES),
                loss_learned=dict(**term, losses=SIGMOID_LOSSES, weights='learned'),
            ),
            probe_size=16,
        )
    )
    log = step(model, tiny_images.batch())
    assert log['loss_sum'] > 0 and log['loss_learned'] > 0
    assert moved(model.student.head) and moved(model.losses)


def detector(
    student: dict[str, Any], teacher: dict[str, Any], **term: Any
) -> dict[str, Any]:
    return dict(
        type='Distiller',
        student=student,
        teachers=dict(t=dict(cfg=teacher, checkpoint=None)),
        taps=dict(head='bbox_head'),
        terms=dict(
            loss_sum=dict(
                type='LossAggregation', student='head', teacher='t.head', **term
            )
        ),
        probe_size=64,
    )


def test_as_a_term_on_dense_sigmoid_heads() -> None:
    # Without `losses`: the cross entropy of the head's kind.
    model = MODELS.build(detector(tiny.gfl(), tiny.gfl(16, 24)))
    (member,) = model.losses['loss_sum'].class_losses
    assert type(member).__name__ == 'BinaryCE'
    assert step(model, tiny.batch())['loss_sum'] > 0
    with pytest.raises(HeadKindError, match='CE is a softmax loss'):
        MODELS.build(detector(tiny.gfl(), tiny.gfl(), losses=[dict(type='CE')]))


def with_loss(student: dict[str, Any], **loss: Any) -> dict[str, Any]:
    student['bbox_head']['loss_cls'] = dict(type='LossAggregation', **loss)
    return student


@pytest.mark.parametrize('detector', [tiny.retinanet, tiny.gfl, tiny.atss, tiny.fcos])
def test_as_the_loss_of_dense_heads(detector: Any) -> None:
    loss = dict(losses=SIGMOID_LOSSES, use_sigmoid=True, weights=[0.5, 1.0])
    model = tiny.build(with_loss(detector(), **loss))
    assert model.bbox_head.cls_out_channels == 3
    assert step(model, tiny.batch())['loss_cls'] > 0
    # From the class layer down to the first layer of the head's own branch.
    assert moved(model.bbox_head.cls_convs)


def test_as_the_loss_of_a_dense_softmax_head() -> None:
    # The background is a class of its own: four counts.
    losses = [dict(type='CE'), dict(type='BalancedCE', counts=[5, 9, 7, 900])]
    student = with_loss(tiny.retinanet(), losses=losses, use_sigmoid=False)
    model = tiny.build(student)
    assert model.bbox_head.cls_out_channels == 4
    log = step(model, tiny.batch())
    assert log['loss_cls'] > 0 and moved(model.bbox_head.retina_cls)
    # And as a term on the same head, where the plan sees that it is a softmax.
    model = MODELS.build(detector(student, student, losses=losses))
    assert step(model, tiny.batch())['loss_sum'] > 0


def test_a_head_without_use_sigmoid_is_an_error() -> None:
    """mmdet's head reads `use_sigmoid` from the config and would add a background."""
    model = tiny.build(with_loss(tiny.retinanet(), losses=SIGMOID_LOSSES))
    with pytest.raises(ConfigError, match='the head uses a softmax') as caught:
        step(model, tiny.batch())
    assert 'use_sigmoid=True' in caught.value.fix


# ------------------------------------------------------------------ soft targets

MEMBERS = [
    *SOFTMAX_LOSSES,
    *SIGMOID_LOSSES,
    dict(type='Focal', gamma=1.0),
    dict(type='Focal', gamma=0.0),
    dict(type='Focal', gamma=3.5),
    {**FOCAL, 'gamma': 0.0, 'alpha': 0.9},
]


@pytest.mark.parametrize('member', MEMBERS)
def test_every_loss_is_least_where_the_student_is_the_teacher(
    member: dict[str, Any],
) -> None:
    loss = LossAggregation([member], tau=2.0)
    teacher = torch.tensor([[1.1, 0.6, 0.4], [-2.0, 3.0, 0.1], [0.0, 0.0, 0.0]])
    student = teacher.clone().requires_grad_()
    least = loss.pair(student, teacher)
    if member.get('gamma') != 1.0:  # |t - p| has a kink there
        (gradient,) = torch.autograd.grad(least, student)
        assert gradient.abs().max() < 1e-6
    for seed in range(20):
        noise = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed))
        for size in (1e-2, 1.0, 5.0):
            assert loss.pair(teacher + size * noise, teacher) >= least - 1e-6


def test_balanced_cross_entropy_of_soft_targets_by_hand() -> None:
    loss = LossAggregation([dict(type='BalancedCE', counts=[1, 2], beta=0.5)])
    # Effective numbers 1 and 1.5: weights 6/5 and 4/5.
    logits, target = torch.zeros(1, 2), torch.tensor([[0.25, 0.75]])
    expected = (0.25 * 1.2 + 0.75 * 0.8) * math.log(2)
    assert loss(logits, target).item() == pytest.approx(expected)


# ------------------------------------------------------------------- hard inputs

EXTREME = [-1e4, -30.0, 0.0, 30.0, 1e4]
ALL = [*SOFTMAX_LOSSES, *SIGMOID_LOSSES, dict(type='Focal', gamma=1.0)]


@pytest.mark.parametrize('member', ALL)
def test_extreme_logits_are_finite_with_their_gradients(member: dict) -> None:
    rows = [[a, b, 0.0] for a in EXTREME for b in EXTREME]
    logits = torch.tensor(rows, requires_grad=True)
    for label in range(3):
        loss = only(**member)(logits, torch.full((25,), label))
        assert loss.isfinite() and gradient(loss, logits).isfinite().all()
    teacher = logits.detach().flip(0)
    loss = only(**member)([logits], [teacher])
    assert loss.isfinite() and gradient(loss, logits).isfinite().all()


@pytest.mark.parametrize('member', ALL)
def test_a_student_that_agrees_is_not_moved(member: dict) -> None:
    teacher = torch.randn(64, 3)
    logits = teacher.clone().requires_grad_()
    loss = only(**member)([logits], [teacher])
    assert gradient(loss, logits).abs().max() < 1e-6


@pytest.mark.parametrize('member', ALL)
def test_gradients_are_those_of_finite_differences(member: dict) -> None:
    logits = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    target = torch.randn(4, 3, dtype=torch.double).softmax(-1)
    loss = only(**member)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), (logits,))


@pytest.mark.parametrize('member', ALL)
def test_half_precision_is_computed_in_full(member: dict) -> None:
    loss, logits, labels = only(**member), torch.randn(6, 3), torch.arange(6) % 3
    with torch.autocast('cpu', torch.bfloat16):
        assert loss(logits, labels) == loss.float()(logits, labels)
    half = loss(logits.bfloat16(), labels)
    assert half.dtype == torch.float32
    assert half == loss(logits.bfloat16().float(), labels)


# --------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    'soft, said',
    [
        ([[0.5, 0.4]], 'sums to 0.9'),
        ([[1.5, -0.5]], 'its minimum is -0.5'),
        ([[float('nan'), 1.0]], 'nan'),
    ],
)
def test_soft_targets_that_are_no_probabilities(soft: list, said: str) -> None:
    with pytest.raises(ConfigError, match='sum to 1') as caught:
        LossAggregation()(SOFTMAX, torch.tensor(soft))
    assert said in caught.value.actual
    assert 'BinaryCE' in caught.value.fix


def test_independent_classes_need_not_sum_to_one() -> None:
    loss = LossAggregation(use_sigmoid=True)
    assert loss(SIGMOID, torch.tensor([[0.9, 0.8]])).isfinite()


def test_the_background_of_a_softmax_is_no_label_outside_its_classes() -> None:
    with pytest.raises(ConfigError, match='labels must be in range'):
        LossAggregation()(SOFTMAX, torch.tensor([2]))


@pytest.mark.parametrize('counts', [[5, 0], [5, -1], [], None, 'data', [5, None]])
def test_invalid_counts_say_where_to_get_them(counts: Any) -> None:
    with pytest.raises(ConfigError, match='every class must have samples') as caught:
        only(type='BalancedCE', counts=counts)
    assert '.counts' in caught.value.fix


def test_counts_must_fit_the_classes() -> None:
    with pytest.raises(ConfigError, match='one count per class'):
        only(type='BalancedCE', counts=[1, 2, 3])(SOFTMAX, FIRST)


@pytest.mark.parametrize(
    'wrong',
    [
        dict(losses=[]),
        dict(losses=dict(type='CE')),
        dict(losses=['CE']),
        dict(losses=[dict(type='CE', gamma=2.0)]),
        dict(losses=[dict(type='BalancedCE')]),
        dict(losses=[dict(type='Focal', gamma=0.5)]),
        dict(losses=[dict(type='Focal', gamma='2')]),
        dict(losses=[dict(type='Focal', alpha=2.0)]),
        dict(losses=[dict(type='BalancedCE', counts=[1, 2], beta=1.0)]),
        dict(weights=[1.0, 1.0]),
        dict(weights=[-1.0]),
        dict(weights=[float('nan')]),
        dict(weights='fixed'),
        dict(tau=0.0),
    ],
)
def test_impossible_arguments(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        LossAggregation(**wrong)


def test_an_unknown_class_loss_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'BalanceCE'") as caught:
        only(type='BalanceCE')
    assert caught.value.available[0] == 'BalancedCE'


def test_use_sigmoid_must_agree_with_the_losses() -> None:
    with pytest.raises(HeadKindError, match='Focal is a softmax loss'):
        LossAggregation([dict(type='Focal')], use_sigmoid=True)
    with pytest.raises(HeadKindError, match='BinaryCE is a sigmoid loss'):
        LossAggregation([dict(type='BinaryCE')], activation='softmax')


def test_other_shapes_are_an_error() -> None:
    with pytest.raises(ShapeMismatchError):
        LossAggregation()([torch.zeros(2, 3)], [torch.zeros(2, 4)])
    with pytest.raises(ShapeMismatchError):
        LossAggregation()(torch.zeros(2, 3), torch.ones(2, 4))
