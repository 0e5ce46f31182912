"""Finds parts of a loss that cannot teach: their gradient is zero at these shapes.

Such a part is a constant whatever the student does: the correlation of two classes is
1 or -1, a softmax over one class is 1, the attention of one position is 1. It would
be logged, and train nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ...losses.base import PairLoss
from ...structures import HeadOutput
from ...taps import frozen_state
from ..plan import Term

# How often the probe's one image is repeated: relations between samples need several.
_COPIES = 4
# Sides beyond it are cut, so that relations between positions stay cheap.
_LARGEST_SIDE = 16
# Share of a part's value by which it changes with the student, at least.
_LEAST_EFFECT = 1e-4
# Values below it are taken for what rounding has left of 0.
_ROUNDING = 1e-2


def find_idle_parts(
    loss: PairLoss, sides: Mapping[str, Any], **truth: Any
) -> dict[str, float]:
    """Return the parts of a loss that cannot teach, with their values.

    The loss is measured on random numbers of the shapes that were found. Losses that
    need boxes are not measured: without objects, some have rightly no gradient.

    Args:
        loss: The loss.
        sides: What it reads, by side: levels, or one `HeadOutput`.
        **truth: The ground truth of the loss; of one image.

    Returns:
        Values by the name of the part; '' for a loss without parts. Empty where the
        loss cannot be computed of random numbers.
    """
    both = sides['student'], sides['teacher']
    if loss.truth == 'boxes' or not all(map(len, _floating(both))):
        return {}
    if truth:
        image = truth['truth']
        truth = {'truth': image._replace(labels=image.labels * _COPIES)}
    generator = torch.Generator().manual_seed(0)
    given = {side: _random(value, generator) for side, value in sides.items()}
    student = list(_floating(given['student']))
    with frozen_state(loss), torch.enable_grad():
        for tensor in student:
            tensor.requires_grad_()
        also = {key: v for key, v in given.items() if key not in ('student', 'teacher')}
        try:
            found = loss(given['student'], given['teacher'], **also, **truth)
        except Exception:  # a loss of a user may demand more than shapes
            return {}
        parts = found if isinstance(found, dict) else {'': found}
        return {
            name: float(part.detach())
            for name, part in parts.items()
            if _is_idle(part, student)
        }


def describe_idle_part(name: str, loss: PairLoss, part: str, value: float) -> str:
    """Return the note on a part of a term, with its value on random numbers."""
    what = f'{name}_{part}' if part else name
    instead = loss.instead.get(part) or 'leave it out: weight=0'
    return (
        f'{what} cannot teach: {type(loss).__name__} has no gradient at these shapes'
        f' (it stays {value:.3g}, whatever the student yields). Instead: {instead}'
    )


def describe_uncompared(term: Term, what: str) -> list[str]:
    """Return the note on what a term cannot compare; none where that is nothing.

    Args:
        term: The term.
        what: What is left out, see `PairLoss.left_out`.
    """
    if not what:
        return []
    return [
        f'{term.name} compares no {what}: {term.refs["student"]} and'
        f' {term.refs["teacher"]} do not both yield {what} that can be decoded'
    ]


def _is_idle(part: Tensor, student: list[Tensor]) -> bool:
    """Return whether a part hardly changes where the student's numbers change.

    The norm of the gradient times that of what it is of does not depend on the number
    of entries that a loss averages over.
    """
    if not part.requires_grad:
        return True
    grads = torch.autograd.grad(part, student, retain_graph=True, allow_unused=True)
    least = _LEAST_EFFECT * max(abs(float(part.detach())), _ROUNDING)
    return all(
        grad is None or float(grad.norm() * tensor.detach().norm()) <= least
        for grad, tensor in zip(grads, student)
    )


def _random(value: Any, generator: torch.Generator) -> Any:
    """Return random numbers of the shapes of what a side yields, for more images."""
    if isinstance(value, HeadOutput):
        return value._replace(
            scores=_random(value.scores, generator),
            boxes=_near(value.boxes, generator),
            bins=_random(value.bins, generator),
            earlier=_random(value.earlier, generator),
        )
    if isinstance(value, tuple):
        return tuple(_random(item, generator) for item in value)
    if not isinstance(value, Tensor):
        return value
    shape = (len(value) * _COPIES, *value.shape[1:])
    if not value.is_floating_point():  # labels
        return value.repeat(_COPIES, *[1] * (value.dim() - 1))
    if len(shape) == 4:
        shape = (*shape[:2], *(min(side, _LARGEST_SIDE) for side in shape[2:]))
    return torch.randn(shape, generator=generator).to(value.device)


def _near(boxes: Tensor | None, generator: torch.Generator) -> Tensor | None:
    """Return boxes of positive size that overlap, whatever their unit."""
    if boxes is None:
        return None
    shape = (len(boxes) * _COPIES, *boxes.shape[1:-1], 2)
    centre, size = (torch.rand(shape, generator=generator) for _ in range(2))
    half = 0.2 + size / 4
    return torch.cat([centre - half, centre + half], -1).to(boxes.device)


def _floating(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a side that can have a gradient."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, HeadOutput):
        for item in (value.scores, value.boxes, value.bins, value.earlier):
            yield from _floating(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from _floating(item)
