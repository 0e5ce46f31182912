"""A student should not begin as good as its teacher."""

from __future__ import annotations

from collections.abc import Iterator

from ....errors import MkdError
from ..examination import Examination
from ..finding import WARNING, Finding
from ..start_metric import warn_of_better_student

POSITION = 35
SLOW = True


def check(case: Examination) -> Iterator[Finding]:
    """Compare the metrics of teachers and student, where the student has a start."""
    if case.cfg.get('load_from') is None:
        return
    fix = 'look whether student and teacher are swapped; or a better teacher'
    try:
        warnings = warn_of_better_student(case)
    except MkdError as error:
        warnings = [f'student and teacher are not compared: {error.message}']
        fix = error.fix or 'mkd-det test measures the student alone'
    for text in warnings:
        yield Finding('better student', WARNING, text, fix)
