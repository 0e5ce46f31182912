"""Training on several ranks, if asked for: real steps of two processes."""

from __future__ import annotations

from collections.abc import Iterator

from ..distributed import try_ranks
from ..examination import Examination
from ..finding import OK, WRONG, Finding

POSITION = 150


def check(case: Examination) -> Iterator[Finding]:
    """Run some steps under DDP on a CPU; all ranks must end with equal weights."""
    count = min(case.settings.ranks, 2)  # more would show nothing else
    if count < 2:
        return
    case.model  # noqa: B018 (a model that cannot be built is reported elsewhere)
    problem = try_ranks(case.loader_cfg, count, case.folder)
    if problem:
        yield Finding(
            'ranks',
            WRONG,
            f'{count} processes: {problem}',
            'train in one process; or mend what the message names',
        )
        return
    yield Finding(
        'ranks',
        OK,
        f'{count} processes (gloo) have done steps without find_unused_parameters, and'
        ' have equal weights',
    )
