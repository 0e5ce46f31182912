"""With balance 1, every class has the same say: gradients by class, measured."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from mkd_det.losses.outputs.soft_output import SoftOutputKD
from mkd_det.structures import HeadOutput

IMAGES, PLACES = 4, 400


def teacher_scores(
    frequencies: Sequence[float], objects: int, generator: torch.Generator
) -> Tensor:
    """Return logits (N, P, C): objects of four places each, and much background.

    Args:
        frequencies: How often each class occurs, relative to each other.
        objects: Number of objects in the batch.
        generator: Random numbers.
    """
    classes = len(frequencies)
    shape = (IMAGES, PLACES, classes)
    sigma = torch.rand(shape, generator=generator) * 0.02 + 1e-3
    drawn = torch.multinomial(
        torch.tensor(frequencies), objects, replacement=True, generator=generator
    )
    for label in drawn.tolist():
        image = int(torch.randint(IMAGES, (), generator=generator))
        first = int(torch.randint(PLACES - 4, (), generator=generator))
        seen = torch.rand(4, generator=generator) * 0.5 + 0.4
        sigma[image, first : first + 4, label] = seen
    return sigma.logit()


def say_by_class(
    loss: SoftOutputKD, frequencies: Sequence[float], batches: int, objects: int = 24
) -> Tensor:
    """Return each class's share of the gradient over a training, (C,).

    The student sees the same everywhere, as at the start of its training.
    """
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(len(frequencies))
    for batch in range(batches):
        teacher = teacher_scores(frequencies, objects, generator)
        scores = torch.full_like(teacher, -4.6).requires_grad_()
        value = loss([HeadOutput(scores)], [HeadOutput(teacher)])['cls']
        (gradient,) = torch.autograd.grad(value, scores)
        if 2 * batch >= batches:  # once it knows how much of each class there is
            total += gradient.abs().sum((0, 1))
    return total / total.sum()


@pytest.mark.parametrize(
    'frequencies, batches',
    [
        ([0.85, 0.08, 0.07], 60),  # as on BCCD
        ([1 / (rank + 4) for rank in range(80)], 240),
    ],
    ids=['3', '80'],
)
def test_every_class_has_the_same_say(frequencies: list[float], batches: int) -> None:
    plain = say_by_class(SoftOutputKD(), frequencies, batches)
    assert plain.max() / plain.min() > 4
    balanced = say_by_class(SoftOutputKD(balance=1.0), frequencies, batches)
    assert balanced.max() / balanced.min() < 1.6
    assert len(frequencies) * balanced.std() < 0.2


def test_one_class_is_what_it_is_without_balance() -> None:
    generator = torch.Generator().manual_seed(1)
    teacher = HeadOutput(teacher_scores([1.0], 12, generator))
    student = HeadOutput(torch.full_like(teacher.scores, -4.6))
    plain, balanced = SoftOutputKD(), SoftOutputKD(balance=1.0)
    for _ in range(3):
        assert balanced([student], [teacher])['cls'].item() == pytest.approx(
            plain([student], [teacher])['cls'].item(), rel=1e-5
        )


def test_the_size_of_the_loss_does_not_depend_on_balance() -> None:
    """Over a training; the student sees all classes alike."""
    frequencies, values = [0.8, 0.15, 0.05], {}
    for balance in (0.0, 1.0):
        generator, found = torch.Generator().manual_seed(0), []
        loss = SoftOutputKD(balance=balance)
        for _ in range(60):
            teacher = HeadOutput(teacher_scores(frequencies, 24, generator))
            student = HeadOutput(torch.full_like(teacher.scores, -4.6))
            found.append(loss([student], [teacher])['cls'].item())
        values[balance] = sum(found[20:])
    assert values[1.0] == pytest.approx(values[0.0], rel=0.1)


def test_a_class_that_never_occurs_is_not_amplified() -> None:
    """Two of four classes are noise: their background weighs what it is."""
    frequencies = [0.5, 0.5, 0.0, 0.0]
    plain = say_by_class(SoftOutputKD(), frequencies, 20)
    balanced = say_by_class(SoftOutputKD(balance=1.0), frequencies, 20)
    assert balanced[2:].sum() < 2 * plain[2:].sum()
    assert balanced[:2].sum() > 0.9


def test_counts_travel_and_stand_still_outside_of_training() -> None:
    generator = torch.Generator().manual_seed(2)
    outputs = [HeadOutput(teacher_scores([0.9, 0.1], 24, generator)) for _ in range(3)]
    student = HeadOutput(torch.full_like(outputs[0].scores, -4.6).requires_grad_())
    loss = SoftOutputKD(balance=1.0)
    loss([student], outputs[:1])
    state = copy.deepcopy(loss.state_dict())
    again = SoftOutputKD(balance=1.0)
    again.load_state_dict(state)
    assert again([student], outputs[1:2]) == loss([student], outputs[1:2])
    before = copy.deepcopy(loss.state_dict())
    with torch.no_grad():
        loss([student], outputs[2:])
    loss.eval()([student], outputs[2:])
    after = loss.state_dict()
    assert before.keys() == after.keys() and len(after) == 1
    assert all(torch.equal(before[key], after[key]) for key in after)
    assert not SoftOutputKD().state_dict()


def test_counts_travel_in_the_checkpoint_of_a_training(tmp_path: Path) -> None:
    """Beside the plain student's weights, which stay what they are."""
    terms = dict(
        loss_soft=dict(
            type='SoftOutputKD', student='head', teacher='t.head', balance=1.0
        )
    )
    parts: dict[str, Any] = dict(terms=terms, adapters={}, branches={})
    cfg = tiny.distiller(tiny.gfl(4, 8), tiny.gfl(8, 16), **parts)
    model: Any = tiny.build(cfg).train()
    before = model.losses.loss_soft.state_dict()
    # The plan shows how many classes there are, and counts nothing.
    assert [value.tolist() for value in before.values()] == [[0.0] * 4]
    model(**model.data_preprocessor(tiny.batch(), True), mode='loss')
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    assert list(model.state_dict()) == list(tiny.build(tiny.gfl(4, 8)).state_dict())
    again: Any = tiny.build(cfg)
    again.load_state_dict(torch.load(tmp_path / 'a.pth'))
    (counts,) = model.losses.loss_soft.state_dict().values()
    (loaded,) = again.losses.loss_soft.state_dict().values()
    assert counts[0] == 1 and len(counts) == 1 + 3
    assert torch.equal(counts, loaded)
