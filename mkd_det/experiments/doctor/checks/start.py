"""The training must start: config, plan, files, data, hooks and optimizer fit."""

from __future__ import annotations

from collections.abc import Iterator

from ..examination import Examination
from ..finding import OK, WARNING, Finding

POSITION = 10


def check(case: Examination) -> Iterator[Finding]:
    """Find what `mkd-det train` would refuse, and what the plan notes."""
    model = case.built
    if case.error is not None:
        raise case.error
    assert model is not None
    plan = model.plan
    for note in plan.notes:
        fix = 'change or remove what the note names'
        yield Finding('start', WARNING, f'plan: {note}', fix)
    off = f'; off: {", ".join(plan.off)}' if plan.off else ''
    yield Finding(
        'start',
        OK,
        f'config, teacher files, data, hooks and optimizer fit; {len(plan.terms)} terms'
        f' of {len(model.teachers)} teachers{off}',
    )
