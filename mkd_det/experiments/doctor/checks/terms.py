"""Every term must be finite, not zero, and have a gradient that reaches the student."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ....weighting.gradient_share import TASK
from ..examination import Examination
from ..finding import OK, WARNING, WRONG, Finding
from ..steps import Steps, training_steps

POSITION = 70


def check(case: Examination) -> Iterator[Finding]:
    """Look at the values and gradients of all terms."""
    steps = training_steps(case)
    found = [
        _look_at(name, steps, name in case.model.plan.terms)
        for name in dict.fromkeys([TASK, *case.model.plan.terms, *steps.values])
    ]
    yield from (one for one in found if one is not None)
    if not any(found):
        listed = ', '.join(
            f'{name} {_mean(values):.3g}' for name, values in steps.values.items()
        )
        yield Finding('terms', OK, f'all are finite and reach the student: {listed}')


def _look_at(name: str, steps: Steps, is_term: bool) -> Finding | None:
    """Return what is wrong with one loss; None if nothing is.

    Args:
        name: The task, a term, or an adapter or branch with a loss of its own.
        steps: What was measured.
        is_term: Whether it is a term. Losses of adapters need not reach the student.
    """
    values = steps.values.get(name)
    off = f'model.terms.{name}.weight=0 to leave it out'
    if values is None:
        return Finding(
            'terms',
            WARNING,
            f'{name} took no part in the steps that were tried',
            'look at its schedule, and at the sampling of its teacher',
        )
    if not all(map(math.isfinite, values)):
        fix = f'{off}; or look at the images and boxes, and at the learning rate'
        return Finding('terms', WRONG, f'{name} is not finite: {values}', fix)
    shares = steps.shares.get(name, [])
    reach = steps.reach.get(name, 0.0)
    if not all(map(math.isfinite, [*shares, reach])):
        return Finding('terms', WRONG, f'the gradient of {name} is not finite', off)
    if not is_term or any(shares) or reach:
        return None
    what = 'is always zero' if not any(values) else f'stays {values[0]:.3g}'
    return Finding(
        'terms',
        WRONG,
        f'{name} {what}: no gradient reaches the student',
        f'another tap or another loss for {name}; or {off}',
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
