"""A head must be read exactly as its own prediction reads it."""

from __future__ import annotations

from collections.abc import Iterator

from ..examination import Examination
from ..finding import OK, Finding

POSITION = 90


def check(case: Examination) -> Iterator[Finding]:
    """Name the heads that are read; the plan has proved their readers.

    It runs each head with random weights, in train and in eval mode, against the head's
    own prediction, and gives it to its term as its own teacher, which must be 0. What
    is read differently is an error when the model is built.
    """
    for name, term in case.model.plan.terms.items():
        if term.readers:
            readers = {side: type(r).__name__ for side, r in term.readers.items()}
            listed = ', '.join(
                f'{side} by {reader}' for side, reader in readers.items()
            )
            yield Finding(
                'heads',
                OK,
                f'{name} reads them exactly ({listed}); a head as its own teacher'
                ' gives 0',
            )
