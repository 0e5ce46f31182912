"""Every tap must fire in a training step, in the student and in the teachers."""

from __future__ import annotations

from collections.abc import Iterator

from ..examination import Examination
from ..finding import OK, Finding
from ..steps import training_steps

POSITION = 60


def check(case: Examination) -> Iterator[Finding]:
    """Run steps; a tap that does not fire is an error there."""
    plan = case.model.plan
    training_steps(case)
    read = {name: set(reads.taps) for name, reads in plan.reads.items()}
    count = len(plan.taps.get('student', {}))
    listed = ''.join(f', {len(taps)} of {name}' for name, taps in read.items())
    yield Finding('taps', OK, f'all fire: {count} of the student{listed}')
