"""Checks that a term is least where student and teacher agree.

A head that is its own teacher has nothing to learn: the term must be 0, or, for cross
entropies, whose least value is the teacher's entropy, without a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from ...errors import HeadKindError, prefix_errors, rename_in_errors
from ...heads.proofs.proof import OTHERWISE, ReadTwice
from ...structures import GroundTruth, HeadOutput, tensors_in
from ..plan import Term

# A term of a head against itself may be as large as this, by rounding.
_VALUE = 1e-3
# Its gradient may be this share of the gradient against something else.
_GRADIENT = 1e-2


def check_agreement(
    where: str, term: Term, read: ReadTwice, size: tuple[int, int]
) -> None:
    """Raise unless a term is least for one head as student and as teacher.

    Args:
        where: Name of the term and of the head, for messages.
        term: The term.
        read: What the head is read as by both sides.
        size: (H, W) of an image, in pixels.

    Raises:
        HeadKindError: It is not: a loss of its own is not least at agreement, or the
            head yields something else in training than in eval mode.
    """
    if not term.loss.least_at_agreement:
        return
    with prefix_errors(where), rename_in_errors('of the student', 'of this head'):
        parts = _loss(term, read.trained, read.evaluated, size)
    wrong = {
        name: float(value) for name, value in parts.items() if not abs(value) <= _VALUE
    }
    if not wrong:
        return
    student = _with_grad(read.trained)
    pulls = _gradients(_loss(term, student, read.evaluated, size), student)
    apart = read.evaluated._replace(scores=read.evaluated.scores.flip(1))
    for name, other in _gradients(_loss(term, student, apart, size), student).items():
        if name in wrong and pulls[name] <= _GRADIENT * other:
            del wrong[name]
    if not wrong:
        return
    loss = type(term.loss).__name__
    raise HeadKindError(
        f'{where}: as its own teacher this head has something to learn',
        expected='0 for every part of the loss, or no gradient',
        actual=', '.join(
            f'{loss} {name}'.strip() + f' {value:.4g}' for name, value in wrong.items()
        ),
        fix=OTHERWISE + '; of a loss of your own that is not least where both agree:'
        ' least_at_agreement = False in its class',
    )


def _loss(
    term: Term, student: HeadOutput, teacher: HeadOutput, size: tuple[int, int]
) -> dict[str, Tensor]:
    """Return the parts of the loss of two outputs; '' is the only part."""
    loss = deepcopy(term.loss)  # some note what they have seen
    also = {side: (teacher,) for side in term.refs if side in loss.also}
    truth = {'truth': _truth(teacher, size)} if loss.truth else {}
    value = loss((student,), (teacher,), **also, **truth)
    return value if isinstance(value, dict) else {'': value}


def _truth(output: HeadOutput, size: tuple[int, int]) -> GroundTruth:
    """Return one object in the middle of the image."""
    height, width = size
    sides = [width / 4, height / 4, width * 3 / 4, height * 3 / 4]
    box = output.scores.new_tensor([sides])
    label = torch.zeros(1, dtype=torch.long, device=box.device)
    return GroundTruth((box,), (label,), size)


def _with_grad(output: HeadOutput) -> HeadOutput:
    def leaf(value: Any) -> Any:
        return None if value is None else value.detach().clone().requires_grad_()

    return HeadOutput(
        leaf(output.scores),
        leaf(output.boxes),
        leaf(output.bins),
        output.priors,
        None if output.earlier is None else tuple(map(_with_grad, output.earlier)),
    )


def _gradients(parts: Mapping[str, Tensor], student: HeadOutput) -> dict[str, float]:
    """Return the size of the gradient of each part on the student's output."""
    leaves = [t for t in tensors_in(student) if t.requires_grad]
    sizes: dict[str, float] = {}
    for name, value in parts.items():
        if not value.requires_grad:
            sizes[name] = float('inf')
            continue
        found = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        sizes[name] = float(sum(g.abs().sum() for g in found if g is not None))
    return sizes
