"""Classifiers with several teachers: weighed by sample, pruned, aligned."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

import mkd_det  # noqa: F401  (registers)
from mkd_det.distiller.model import Distiller
from mkd_det.errors import ConfigError, PlanError, ShapeMismatchError, TapNotFoundError
from mkd_det.structures import Knowledge
from mkd_det.weighting.teacher_weights import (
    TeacherWeights,
    as_mask,
    confidence_weights,
)

LOGITS = dict(type='SoftOutputKD', student='logits', tau=4.0)


def classifier(depth: int = 8, width: int = 8, classes: int = 4) -> dict[str, Any]:
    backbone = dict(type='CifarResNet', depth=depth, base_channels=width)
    return dict(type='ImageClassifier', backbone=backbone, num_classes=classes)


def distiller(**cfg: Any) -> Distiller:
    torch.manual_seed(0)
    teachers = {
        name: dict(cfg=classifier(depth), checkpoint=None, speed='off')
        for name, depth in (('a', 8), ('b', 14))
    }
    cfg = dict(teachers=teachers, taps=dict(logits='head', feature='head:in')) | cfg
    model = MODELS.build(
        dict(type='Distiller', student=classifier(width=4), probe_size=16, **cfg)
    )
    model.init_weights()
    return model.train()


def batch(n: int = 4, classes: int = 4) -> tuple[Tensor, list[BaseDataElement]]:
    generator = torch.Generator().manual_seed(3)
    samples = []
    for index in range(n):
        sample = BaseDataElement()
        sample.gt_label = torch.tensor([index % classes])
        samples.append(sample)
    return torch.randn(n, 3, 16, 16, generator=generator), samples


def both(**term: Any) -> dict[str, dict]:
    return {
        f'loss_{name}': {**LOGITS, 'teacher': f'{name}.logits', **term} for name in 'ab'
    }


# -- weights by sample -----------------------------------------------------------


def test_a_teacher_that_is_right_counts_more() -> None:
    # Cross entropies ln 1 and ln 3: exp are 1 and 3, shares 1/4 and 3/4.
    weights = confidence_weights(torch.tensor([[0.0], [math.log(3)]]))
    assert weights.flatten().tolist() == pytest.approx([1.5, 0.5])
    three = confidence_weights(torch.log(torch.tensor([[1.0], [1.0], [2.0]])))
    # 3 / 2 * (1 - 1/4), (1 - 1/4), (1 - 2/4): their mean is 1.
    assert three.flatten().tolist() == pytest.approx([1.125, 1.125, 0.75])


def test_a_teacher_alone_has_weight_1() -> None:
    assert confidence_weights(torch.rand(1, 5)).tolist() == [[1.0] * 5]


def test_weights_reach_every_loss_as_they_are() -> None:
    """The sum of the terms is that of samples times weights, computed apart."""
    model = distiller(terms=both(), teacher_weights=dict(tap='logits'))
    images, samples = batch()
    losses = model(images, samples, mode='loss')
    with torch.no_grad():
        model.student.train()
        labels = torch.cat([s.gt_label for s in samples])
        said = {n: t.model(images) for n, t in model.teachers.items()}
        ce = [
            nn.functional.cross_entropy(z, labels, reduction='none')
            for z in said.values()
        ]
        exp = torch.stack(ce).exp()
        weights = 2 * (1 - exp / exp.sum(0))
        student = model.student(images)
        for row, (name, teacher) in zip(weights, said.items(), strict=True):
            p = (teacher / 4).softmax(-1)
            kl = (p * (p.log() - (student / 4).log_softmax(-1))).sum(-1) * 16
            expected = (row * kl).mean()
            assert losses[f'loss_{name}'].item() == pytest.approx(
                expected.item(), rel=1e-4
            )


def test_without_teacher_weights_samples_count_alike() -> None:
    images, samples = batch()
    plain = distiller(terms=both())(images, samples, mode='loss')
    weighed = distiller(
        terms=both(), teacher_weights=dict(tap='logits', teachers=['a'])
    )(images, samples, mode='loss')
    assert weighed['loss_a'].item() == pytest.approx(plain['loss_a'].item(), rel=1e-6)


def test_features_are_weighed_too() -> None:
    terms = {
        'loss_f': dict(
            type='FeatureKD',
            form='l2',
            student='align.student',
            teacher='align.teacher',
        )
    }
    align = dict(type='NonLinearAlign', student='feature', teacher='a.feature')
    taps = dict(adapters=dict(align=align), terms={**terms, **both()})
    images, samples = batch()
    weighed = distiller(**taps, teacher_weights=dict(tap='logits'))
    plain = distiller(**taps)
    one, other = (m(images, samples, mode='loss')['loss_f'] for m in (weighed, plain))
    assert one.item() != pytest.approx(other.item(), rel=1e-3)


@pytest.mark.parametrize(
    'weights, error, words',
    [
        (dict(), ConfigError, '`tap` is missing'),
        (dict(tap='logits', teachers=['c']), ConfigError, 'no such teacher'),
        (dict(tap='logit'), ConfigError, "tap='a.logit'"),
        (dict(tap='maps'), ShapeMismatchError, 'class logits'),
        (dict(tap='logits', by='x'), ConfigError, 'by'),
    ],
)
def test_wrong_teacher_weights_are_errors(
    weights: dict, error: type[Exception], words: str
) -> None:
    taps = dict(logits='head', maps='backbone')
    with pytest.raises(error, match=words):
        distiller(terms=both(), taps=taps, teacher_weights=weights)


def test_a_loss_that_is_no_mean_over_samples_cannot_be_weighed() -> None:
    terms = dict(
        loss_at=dict(type='AttentionKD', student='maps', teacher='a.maps'), **both()
    )
    taps = dict(logits='head', maps='backbone')
    with pytest.raises(PlanError, match='AttentionKD cannot weigh samples'):
        distiller(terms=terms, taps=taps, teacher_weights=dict(tap='logits'))


def test_samples_without_a_label_are_an_error() -> None:
    weigh = TeacherWeights({'a': 'logits'})
    logits = Knowledge('a', 'logits', (torch.zeros(2, 3),), (None,))
    with pytest.raises(ConfigError, match='no label'):
        weigh({'a': {'logits': logits}}, [BaseDataElement()] * 2)


@pytest.mark.parametrize(
    'shape, size', [((2, 5), (1, 1)), ((2, 7, 5), (7, 1)), ((2, 5, 3, 4), (3, 4))]
)
def test_a_mask_fits_every_kind_of_level(shape: tuple, size: tuple) -> None:
    mask = as_mask(torch.tensor([1.0, 2.0]), torch.zeros(shape))
    assert mask.shape == (2, 1, *size)
    assert mask[1].unique().tolist() == [2.0]


# -- the pruned teacher ------------------------------------------------------------


def pruned(**cfg: Any) -> dict[str, Any]:
    teachers = dict(
        t=dict(cfg=classifier(14), checkpoint=None, speed='off'),
        pruned=dict(prune_of='t', **cfg),
    )
    term = dict(
        type='DLKD', student='logits', teacher='t.logits', pruned='pruned.logits'
    )
    return dict(teachers=teachers, terms=dict(loss_dlkd=term))


def test_the_pruned_teacher_is_the_same_file_with_its_smallest_weights_zero(
    tmp_path: Path,
) -> None:
    source = MODELS.build(classifier(14))
    torch.save(source.state_dict(), tmp_path / 't.pth')
    cfg = pruned(prune=0.3)
    cfg['teachers']['t']['checkpoint'] = str(tmp_path / 't.pth')
    model = distiller(**cfg)
    whole, cut = (model.teachers[n].model for n in ('t', 'pruned'))
    kinds = (nn.Conv2d, nn.Linear)
    theirs, ours = (
        torch.cat([m.weight.flatten() for m in net.modules() if isinstance(m, kinds)])
        for net in (cut, whole)
    )
    zero = theirs == 0
    assert zero.float().mean().item() == pytest.approx(0.3, abs=1e-3)
    assert ours[zero].abs().max() <= ours[~zero].abs().min()
    assert torch.equal(theirs[~zero], ours[~zero])
    assert (ours != 0).all()
    # Frozen, and with the plain keys: nothing of the pruning stays behind.
    assert set(cut.state_dict()) == set(whole.state_dict())
    assert not any(p.requires_grad for p in cut.parameters())


def test_dlkd_trains_with_both_teachers() -> None:
    model = distiller(**pruned(prune=0.5))
    images, samples = batch()
    losses = model(images, samples, mode='loss')
    assert losses['loss_dlkd'].item() > 0
    assert model.losses['loss_dlkd'].difficulties.shape == (4,)
    assert model.losses['loss_dlkd'].difficulties.max() > 0
    losses['loss_dlkd'].backward()
    assert model.student.head.weight.grad.abs().sum() > 0


def test_a_pruned_copy_is_no_teacher_to_weigh() -> None:
    model = distiller(**pruned(prune=0.5), teacher_weights=dict(tap='logits'))
    plain = distiller(**pruned(prune=0.5))
    images, samples = batch()
    one, other = (m(images, samples, mode='loss')['loss_dlkd'] for m in (model, plain))
    assert one.item() == pytest.approx(other.item(), rel=1e-6)


def test_a_pruned_copy_comes_and_goes_with_its_teacher() -> None:
    images, samples = batch()
    # It is no source of its own: of one teacher none can be dropped.
    model = distiller(**pruned(prune=0.5), sampling=dict(keep_prob=0.01))
    assert model.sampler.names == ('t',)
    assert model.sampler.pick(0) == {'t', 'pruned'}
    assert 'loss_dlkd' in model(images, samples, mode='loss')
    with pytest.raises(ConfigError, match='at least one teacher'):
        distiller(**pruned(prune=0.5), sampling=dict(drop_exact=1))


@pytest.mark.parametrize(
    'cfg, words',
    [
        (dict(prune=1.0), 'prune must be a share'),
        (dict(prune=-0.1), 'prune must be a share'),
        (dict(prune='half'), 'prune must be a share'),
        (dict(prune_of='x'), 'prune_of must name another teacher'),
        (dict(prune_of='pruned'), 'prune_of must name another teacher'),
    ],
)
def test_a_wrong_pruning_is_an_error(cfg: dict, words: str) -> None:
    whole = pruned()
    whole['teachers']['pruned'].update(cfg)
    with pytest.raises(ConfigError, match=words):
        distiller(**whole)


def test_dlkd_needs_its_third_reference() -> None:
    cfg = pruned()
    del cfg['terms']['loss_dlkd']['pruned']
    with pytest.raises(ConfigError, match='`pruned` is missing'):
        distiller(**cfg)


# -- names of published weights ----------------------------------------------------


def test_keys_of_published_weights_are_revised(tmp_path: Path) -> None:
    source = MODELS.build(classifier(8))
    published = {
        'module.' + k.removeprefix('backbone.').replace('head', 'linear'): v
        for k, v in source.state_dict().items()
    }
    torch.save(dict(state_dict=published), tmp_path / 'published.pth')
    rules = [
        (r'^module\.', ''),
        ('^linear', 'head'),
        (r'^(conv1|bn1|layer\d)', r'backbone.\1'),
    ]
    teacher = dict(cfg=classifier(8), checkpoint=str(tmp_path / 'published.pth'))
    teacher |= dict(revise_keys=rules, speed='off')
    term = dict(loss_a={**LOGITS, 'teacher': 'a.logits'})
    model = distiller(teachers=dict(a=teacher), terms=term)
    loaded = model.teachers['a'].model.state_dict()
    for key, value in source.state_dict().items():
        assert torch.equal(loaded[key], value)


@pytest.mark.parametrize('rules', [['^module'], [('(', '')], 'module.', [(1, 2)]])
def test_revise_keys_must_be_pairs(rules: Any) -> None:
    teacher = dict(cfg=classifier(8), checkpoint=None, revise_keys=rules)
    with pytest.raises(ConfigError, match='revise_keys'):
        distiller(teachers=dict(a=teacher))


# -- alignment ---------------------------------------------------------------------


def aligned(reuse: Any = 'head', **cfg: Any) -> dict[str, Any]:
    align = dict(type='NonLinearAlign', student='feature', teacher='a.feature', **cfg)
    align['reuse_classifier'] = reuse
    term = dict(
        type='FeatureKD', form='l2', student='align.student', teacher='align.teacher'
    )
    return dict(adapters=dict(align=align), terms=dict(loss_f=term))


def test_aligned_features_go_through_the_teachers_own_classifier() -> None:
    model = distiller(**aligned())
    images, samples = batch()
    losses = model(images, samples, mode='loss')
    head = model.teachers['a'].model.head
    losses['loss_align_logits'].backward()
    # The gradient passes through the classifier and stays out of it.
    assert model.student.backbone.conv1.weight.grad.abs().sum() > 0
    assert model.adapters['align'].aligners[0][0].weight.grad.abs().sum() > 0
    assert head.weight.grad is None
    # It is in no parameters, no state and no copy.
    assert all(p is not head.weight for p in model.parameters())
    assert not any('classifier' in k for k in model.adapters.state_dict())


def test_the_reused_classifiers_loss_is_computed_by_hand() -> None:
    model = distiller(**aligned(tau=2.0, weight=3.0))
    images, samples = batch()
    seen = {}
    model.adapters['align'].register_forward_hook(
        lambda module, args, out: seen.update(
            ours=out.student[0], theirs=out.teacher[0]
        )
    )
    loss = model(images, samples, mode='loss')['loss_align_logits']
    head = model.teachers['a'].model.head
    p, q = ((head(seen[k]) / 2).softmax(-1) for k in ('theirs', 'ours'))
    expected = 3 * 4 * (p * (p / q).log()).sum(-1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_only_linear_layer_is_found() -> None:
    model = distiller(**aligned(True))
    assert model.adapters['align'].classifier.module is model.teachers['a'].model.head


def test_without_a_reused_classifier_there_is_no_such_loss() -> None:
    images, samples = batch()
    losses = distiller(**aligned(None))(images, samples, mode='loss')
    assert 'loss_align_logits' not in losses and losses['loss_f'] > 0


@pytest.mark.parametrize(
    'cfg, error, words',
    [
        (dict(reuse='haed'), TapNotFoundError, 'head'),
        (dict(tau=0.0), ConfigError, 'tau'),
        (dict(hidden=1), ConfigError, 'hidden'),
    ],
)
def test_wrong_alignments_are_errors(
    cfg: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        distiller(**aligned(**cfg))


def test_a_classifier_that_reads_something_else_is_an_error() -> None:
    cfg = aligned()
    cfg['taps'] = dict(logits='head', feature='backbone.layer2')
    with pytest.raises(ShapeMismatchError, match="feature='head:in'"):
        distiller(**cfg)


# -- other architectures -----------------------------------------------------------


@pytest.mark.parametrize('student', ['mobilenet_v3_small', 'shufflenet_v2_x0_5', None])
def test_teachers_may_be_of_other_architectures(student: str | None) -> None:
    """A CIFAR ResNet and a torchvision model, each way."""
    backbone = dict(type='TorchvisionBackbone', name=student or 'shufflenet_v2_x0_5')
    other = dict(type='ImageClassifier', backbone=backbone, num_classes=4)
    models = [other, classifier(8)] if student else [classifier(8), other]
    cfg = aligned(True)
    cfg['teachers'] = dict(a=dict(cfg=models[1], checkpoint=None, speed='off'))
    cfg['terms']['loss_soft'] = {**LOGITS, 'teacher': 'a.logits'}
    model = MODELS.build(
        dict(
            type='Distiller',
            student=models[0],
            taps=dict(logits='head', feature='head:in'),
            probe_size=32,
            **cfg,
        )
    ).train()
    images, samples = batch()
    losses = model(images, samples, mode='loss')
    assert {'loss_cls', 'loss_f', 'loss_align_logits', 'loss_soft'} <= set(losses)
    sum(losses.values()).backward()
    assert all(torch.isfinite(v) for v in losses.values())
