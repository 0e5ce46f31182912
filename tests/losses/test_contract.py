"""Promises of every registered distillation loss.

A new loss is picked up from the registry, with its defaults and with every choice
that its constructor declares as a `Literal`. Nothing here names a loss, but for
`ENTROPY`.
"""

from __future__ import annotations

import copy
import inspect
import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor

from mkd_det.class_maps.class_map import Classes, ClassMap
from mkd_det.class_maps.restriction import Restriction
from mkd_det.losses import PairLoss
from mkd_det.registry import LOSSES, argument_names
from mkd_det.structures import GroundTruth, HeadOutput

LOSSES.import_from_location()
# Not what other tests or users register.
CLASSES = {
    name: cls
    for name, cls in sorted(LOSSES.module_dict.items())
    if cls.__module__.startswith('mkd_det.')
}
# Cross entropies: of equal sides remains what the teacher is unsure of.
ENTROPY = ('LossAggregation',)


def _literals(hint: Any) -> tuple:
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(choice for arg in get_args(hint) for choice in _literals(arg))


def _variants() -> list:
    """Return every loss with its defaults, and with each of its options."""
    cases = []
    for name, cls in CLASSES.items():
        seen: list[dict] = [{}]
        defaults = inspect.signature(cls).parameters
        for key, hint in get_type_hints(cls.__init__).items():
            for choice in _literals(hint):
                if key in defaults and choice != defaults[key].default:
                    seen.append({key: choice})
        cases += [
            pytest.param(
                cls,
                kwargs,
                id='-'.join([name, *(f'{k}={v}' for k, v in kwargs.items())]),
            )
            for kwargs in seen
        ]
    return cases


every_loss = pytest.mark.parametrize('cls, kwargs', _variants())


def _boxes(n: int, p: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, p, 2, generator=generator) * 50
    size = torch.rand(n, p, 2, generator=generator) * 30 + 5
    return torch.cat([corner, corner + size], -1)


def levels(
    cls: type[PairLoss], seed: int, n: int = 2, size: int = 6, scale: float = 1.0
) -> list:
    """Return two feature levels, or one head output, as the loss reads them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    if 'labels' in cls.also:  # of the second stage, one level of vectors
        return [normal(n, 5)]
    if cls.reads == 'features':
        return [normal(n, 5, size, size), normal(n, 5, -(-size // 2), -(-size // 2))]
    places = size * size
    scores, boxes = normal(n, places, 4), _boxes(n, places, seed)
    bins = normal(n, places, 4, 6)
    # No earlier decoder layers: a head of queries of one layer.
    return [HeadOutput(scores, boxes, bins, _priors(size), earlier=())]


def _priors(size: int) -> tuple[Tensor]:
    """Return anchors of 24 pixels on an image of 64 pixels."""
    centres = (torch.arange(size) + 0.5) * 64 / size
    y, x = torch.meshgrid(centres, centres, indexing='ij')
    at = torch.stack([x, y], -1).flatten(0, 1)
    return (torch.cat([at - 12, at + 12], 1),)


def truth_of(cls: type[PairLoss], n: int) -> GroundTruth:
    """Return two boxes on every image of 64 pixels, or one label."""
    boxes = torch.tensor([[4.0, 8.0, 30.0, 34.0], [20.0, 20.0, 50.0, 40.0]])
    label = torch.tensor([1, 2] if cls.truth == 'boxes' else 1)
    return GroundTruth((boxes,) * n, (label,) * n, (64, 64))


def change(given: list, function: Any) -> list:
    """Return the levels with each tensor changed."""
    return [
        HeadOutput(*(function(part) for part in level[:3]), level.priors, level.earlier)
        if isinstance(level, HeadOutput)
        else function(level)
        for level in given
    ]


def leaves(given: list) -> list[Tensor]:
    """Yield all tensors of the levels."""
    return [
        part
        for level in given
        for part in (level[:3] if isinstance(level, HeadOutput) else [level])
    ]


def require_grad(given: list) -> list:
    """Return copies of the levels that require gradients."""
    return change(given, lambda tensor: tensor.clone().requires_grad_())


def total(loss: Tensor | dict[str, Tensor]) -> Tensor:
    """Return the sum of the parts of a loss, or the loss."""
    parts = list(loss.values()) if isinstance(loss, dict) else [loss]
    assert parts and all(part.shape == () for part in parts)
    return torch.stack(parts).sum()


def made(cls: type[PairLoss], kwargs: dict) -> Any:
    """The loss, as a function of student and teacher. What it reads beside them is
    something made of the teacher."""
    told = {'channels': [(5, 5)] * 2} if 'channels' in argument_names(cls) else {}
    torch.manual_seed(0)
    loss = cls(**kwargs, **told)

    def call(student: list, teacher: list) -> Any:
        also: dict = {name: change(teacher, lambda t: t / 2) for name in cls.also}
        first = leaves(student)[0]
        if cls.truth:
            also['truth'] = truth_of(cls, len(first))
        if 'labels' in also:
            also['labels'] = [torch.ones(len(first), dtype=torch.long)]
        exact = torch.promote_types(first.dtype, torch.float32)
        return loss.to(exact)(student, teacher, **also)

    return call


def finite_with_gradient(loss: Any, student: list, teacher: list) -> Tensor:
    """Return the loss; assert that it and its gradients are finite."""
    student = require_grad(student)
    value = total(loss(student, teacher))
    assert value.isfinite(), value
    value.backward()
    for tensor in leaves(student):
        assert tensor.grad is None or tensor.grad.isfinite().all()
    return value.detach()


def test_the_registry_is_not_empty() -> None:
    assert len(CLASSES) >= 4
    assert all(issubclass(cls, PairLoss) for cls in CLASSES.values())


@every_loss
def test_equal_sides_give_zero_and_different_ones_more(
    cls: type[PairLoss], kwargs: dict
) -> None:
    loss = made(cls, kwargs)
    student = levels(cls, 0)
    least = total(loss(student, student)).item()
    assert least == pytest.approx(0, abs=1e-5) or cls.__name__ in ENTROPY
    for seed in range(1, 4):
        assert total(loss(levels(cls, seed), student)) > least + 1e-3


@every_loss
def test_a_step_against_the_gradient_lowers_it(
    cls: type[PairLoss], kwargs: dict
) -> None:
    loss, teacher = made(cls, kwargs), levels(cls, 1)
    student = require_grad(levels(cls, 2))
    before = total(loss(student, teacher))
    before.backward()
    norm = sum(t.grad.square().sum() for t in leaves(student) if t.grad is not None)
    assert norm > 0
    with torch.no_grad():
        stepped = change(
            student,
            lambda t: t if t.grad is None else t - 1e-2 * t.grad / norm.sqrt(),
        )
    assert total(loss(stepped, teacher)) < before


@every_loss
@pytest.mark.parametrize('n, size', [(1, 6), (1, 1), (2, 1), (1, 2)])
def test_finite_at_batch_1_and_on_1x1_maps(
    cls: type[PairLoss], kwargs: dict, n: int, size: int
) -> None:
    finite_with_gradient(
        made(cls, kwargs), levels(cls, 1, n, size), levels(cls, 2, n, size)
    )


@every_loss
@pytest.mark.parametrize('scale', [1e4, 1e-4, 0.0])
@pytest.mark.parametrize('side', ['student', 'teacher', 'both'])
def test_finite_for_extreme_values(
    cls: type[PairLoss], kwargs: dict, scale: float, side: str
) -> None:
    student = levels(cls, 1, scale=scale if side != 'teacher' else 1.0)
    teacher = levels(cls, 2, scale=scale if side != 'student' else 1.0)
    finite_with_gradient(made(cls, kwargs), student, teacher)


@every_loss
def test_finite_and_small_without_objects(cls: type[PairLoss], kwargs: dict) -> None:
    if cls.reads != 'outputs':
        # Of features, an image without objects is an image like others.
        student, teacher = levels(cls, 1), change(levels(cls, 2), torch.zeros_like)
        finite_with_gradient(made(cls, kwargs), student, teacher)
        return
    nothing = [
        level._replace(scores=torch.full_like(level.scores, -100.0))
        for level in levels(cls, 2)
    ]
    if _is_softmax(cls(**kwargs), kwargs):
        nothing[0].scores[..., -1] = 100.0
    value = finite_with_gradient(
        made(cls, kwargs), nothing, change(nothing, torch.clone)
    )
    assert value == pytest.approx(0, abs=1e-5)
    finite_with_gradient(made(cls, kwargs), levels(cls, 1), nothing)


def _is_softmax(loss: PairLoss, kwargs: dict) -> bool:
    """Return whether the last class is the background."""
    told = kwargs.get('classes', kwargs.get('kind'))
    return told == 'softmax' or getattr(loss, 'use_sigmoid', True) is False


@every_loss
def test_half_precision_gives_what_float32_gives(
    cls: type[PairLoss], kwargs: dict
) -> None:
    loss = made(cls, kwargs)
    student, teacher = levels(cls, 1), levels(cls, 2)
    exact = total(loss(student, teacher))
    halves = [change(side, torch.Tensor.bfloat16) for side in (student, teacher)]
    with torch.autocast('cpu', torch.bfloat16):
        half = loss(*halves)
        assert total(loss(student, teacher)) == exact
    assert total(half).dtype is torch.float32
    # What is lost is lost in the inputs (8 bits), not in the loss.
    assert total(half).item() == pytest.approx(exact.item(), rel=0.05)


@every_loss
def test_gradients_are_those_of_finite_differences(
    cls: type[PairLoss], kwargs: dict
) -> None:
    loss = made(cls, kwargs)
    student = require_grad(change(levels(cls, 1, 2, 3), torch.Tensor.double))
    teacher = change(levels(cls, 2, 2, 3), torch.Tensor.double)

    def flat(*tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        return total(loss(change(student, lambda _: next(rest)), teacher))

    assert torch.autograd.gradcheck(flat, tuple(leaves(student)), fast_mode=True)


@every_loss
def test_the_teacher_gets_no_gradient(cls: type[PairLoss], kwargs: dict) -> None:
    student, teacher = require_grad(levels(cls, 1)), require_grad(levels(cls, 2))
    total(made(cls, kwargs)(student, teacher)).backward()
    assert all(tensor.grad is None for tensor in leaves(teacher))
    assert any(tensor.grad is not None for tensor in leaves(student))


@every_loss
def test_inputs_are_left_as_they_were(cls: type[PairLoss], kwargs: dict) -> None:
    student, teacher = levels(cls, 1), levels(cls, 2)
    before = copy.deepcopy((student, teacher))
    made(cls, kwargs)(student, teacher)
    for now, then in zip(
        leaves(student) + leaves(teacher), leaves(before[0]) + leaves(before[1])
    ):
        assert torch.equal(now, then)


@every_loss
def test_a_repeated_batch_has_the_same_loss(cls: type[PairLoss], kwargs: dict) -> None:
    loss = made(cls, kwargs)
    once = levels(cls, 1), levels(cls, 2)
    twice = [change(side, lambda t: torch.cat([t, t])) for side in once]
    assert total(loss(*twice)).item() == pytest.approx(
        total(loss(*once)).item(), rel=1e-4
    )


@every_loss
def test_the_order_of_images_does_not_matter(cls: type[PairLoss], kwargs: dict) -> None:
    loss = made(cls, kwargs)
    given = levels(cls, 1, n=3), levels(cls, 2, n=3)
    turned = [change(side, lambda t: t[[2, 0, 1]]) for side in given]
    assert total(loss(*turned)).item() == pytest.approx(
        total(loss(*given)).item(), rel=1e-4
    )


@pytest.mark.parametrize('name', CLASSES)
def test_the_docstring_names_paper_formula_and_shapes(name: str) -> None:
    doc = inspect.getdoc(CLASSES[name]) or ''
    assert re.search(r'arXiv\s+\d{4}\.\d{4,5}|doi|DOI', doc), 'no paper'
    assert re.search(r':math:|\.\. math::', doc), 'no formula'
    assert re.search(r'^Shape:', doc, re.MULTILINE), 'no shapes'


@pytest.mark.parametrize('name', CLASSES)
def test_demands_and_reads_are_of_the_known_ones(name: str) -> None:
    loss = CLASSES[name]()
    assert loss.demands <= {'same_channels', 'same_spatial'}
    assert loss.reads in ('features', 'outputs')


# -- class maps: losses get the shared classes, and know nothing of maps ----------


def _of_classes() -> list:
    """Return every loss that compares classes, with its options."""
    return [
        case
        for case in _variants()
        if case.values[0].of_classes or case.values[0].reads == 'outputs'
    ]


every_class_loss = pytest.mark.parametrize('cls, kwargs', _of_classes())


def _restriction(
    cls: type[PairLoss], kwargs: dict, sources: tuple, theirs: int
) -> Restriction:
    """Return a map of the classes of `levels`; the last of a softmax head is the
    background."""
    given = levels(cls, 0)[0]
    head = isinstance(given, HeadOutput)
    background = head and 'softmax' in kwargs.values()
    exclusive = background or not head
    classes = ClassMap('t', Classes(len(sources)), Classes(theirs), sources)
    whose = {'student': 'student', 'teacher': 'teacher'}
    whose |= {name: side for name, side in cls.also.items() if name != 'labels'}
    return Restriction(classes, whose, background, exclusive)


def _columns(level: Any, order: list[int]) -> Any:
    """Return a level with its class columns in this order; others repeat."""
    if isinstance(level, HeadOutput):
        return level._replace(scores=level.scores[..., order])
    return level[:, order]


def _mapped(
    cls: type[PairLoss], kwargs: dict, restriction: Restriction, sides: tuple
) -> Any:
    student, teacher = sides
    also = {n: change(list(teacher), lambda t: t / 2) for n in cls.also}
    first = leaves(student)[0]
    if 'labels' in also:
        also['labels'] = [torch.ones(len(first), dtype=torch.long)]
    told = restriction({'student': student, 'teacher': teacher, **also})
    if cls.truth:
        truth = truth_of(cls, len(first))
        labels = cls.truth == 'labels'
        told['truth'] = restriction.truth(truth) if labels else truth
    torch.manual_seed(0)
    return total(cls(**kwargs)(told.pop('student'), told.pop('teacher'), **told))


@every_class_loss
def test_a_mapped_teacher_is_the_same_teacher_with_permuted_classes(
    cls: type[PairLoss], kwargs: dict
) -> None:
    student, teacher = levels(cls, 1), levels(cls, 2)
    count = 4 if isinstance(student[0], HeadOutput) else 5
    background = isinstance(student[0], HeadOutput) and 'softmax' in kwargs.values()
    count -= background
    order = [2, 0, *range(3, count), 1][:count] if count > 3 else [2, 0, 1]
    # Class c of the student is class `sources[c]` of the teacher.
    sources = tuple((order.index(c),) for c in range(count))
    restriction = _restriction(cls, kwargs, sources, count)
    columns = [*order, *([count] if background else [])]
    permuted = [_columns(level, columns) for level in teacher]
    plain = _restriction(cls, kwargs, tuple((c,) for c in range(count)), count)
    wanted = _mapped(cls, kwargs, plain, (student, teacher))
    assert torch.equal(wanted, total(made(cls, kwargs)(student, teacher)))
    assert torch.equal(wanted, _mapped(cls, kwargs, restriction, (student, permuted)))


@every_class_loss
def test_classes_that_the_teacher_lacks_get_no_gradient(
    cls: type[PairLoss], kwargs: dict
) -> None:
    student, teacher = require_grad(levels(cls, 1)), levels(cls, 2)
    head = isinstance(student[0], HeadOutput)
    count = (4 if head else 5) - (head and 'softmax' in kwargs.values())
    # The teacher knows the class of the labels (1), others and two of its own.
    sources = ((), *((c - 1,) for c in range(1, count)))
    restriction = _restriction(cls, kwargs, sources, count + 1)
    wide = [*range(count), 0, *([count] if restriction.background else [])]
    teacher = [_columns(level, wide) for level in teacher]
    _mapped(cls, kwargs, restriction, (student, teacher)).backward()
    for level in student:
        scores = level.scores if head else level
        if scores.grad is None:
            continue  # of losses that compare boxes alone
        classes = scores.grad.movedim(1, -1) if not head else scores.grad
        assert torch.equal(classes[..., 0], torch.zeros_like(classes[..., 0]))
        assert classes[..., 1:].abs().sum() > 0


@pytest.mark.parametrize(
    'cls, kwargs',
    [
        case
        for case in _of_classes()
        if case.values[0].truth == 'labels' or 'labels' in case.values[0].also
    ],
)
def test_a_label_that_the_teacher_lacks_has_no_target(
    cls: type[PairLoss], kwargs: dict
) -> None:
    student, teacher = require_grad(levels(cls, 1)), levels(cls, 2)
    restriction = _restriction(cls, kwargs, ((0,), (), (1,), (2,), (3,)), 5)
    value = _mapped(cls, kwargs, restriction, (student, teacher))
    value.backward()
    assert value == 0
    assert all(not leaf.grad.any() for leaf in leaves(student))
