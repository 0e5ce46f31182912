"""A label must mean the same class for a teacher and in the data.

Names are compared when the training starts. Here the numbers decide: which class a
teacher gives to the objects of each class of the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..examination import Examination
from ..finding import OK, WARNING, WRONG, Finding
from ..teacher_metrics import MeasuredTeacher, measured_teachers

POSITION = 40
# Objects that a teacher has found, from which on their classes say something.
ENOUGH = 10


def check(case: Examination) -> Iterator[Finding]:
    """Compare the labels of a teacher's boxes with those of the objects below them."""
    case.model  # noqa: B018 (nothing is examined without it)
    if case.cfg.get('val_dataloader') is None:
        return
    for name, found in measured_teachers(case).items():
        if found.confusion is not None:
            yield _compare(name, found)


def _compare(name: str, found: MeasuredTeacher) -> Finding:
    """Return what a teacher's confusion of the classes says."""
    table, classes = found.confusion, found.classes
    assert table is not None
    total, right = int(table.sum()), int(np.trace(table))
    if total < ENOUGH:
        return Finding(
            'class order',
            WARNING,
            f'not compared: {name} has found only {total} of the objects in'
            f' {found.images} images',
            '--images with a larger number',
        )
    rows, columns = linear_sum_assignment(-table)
    best = int(table[rows, columns].sum())
    moved = [
        (i, j) for i, j in zip(rows, columns) if i != j and table[i, j] > table[i, i]
    ]
    if moved and best >= 1.5 * right:
        text = ', '.join(
            f'{classes[i]!r} is found as {classes[j]!r}' for i, j in moved[:4]
        )
        return Finding(
            'class order',
            WRONG,
            f'{name} numbers the classes in another way than the data: {text};'
            f' {right} of {total} objects have the label of the data, {best} with the'
            ' classes exchanged',
            f"teachers=dict({name}=dict(classes=...)) in the order of the teacher's own"
            f" data, and class_map='auto'",
        )
    return Finding(
        'class order',
        OK,
        f'{name}: {right} of {total} objects that it has found have the label of the'
        f' data{_unseen(table, classes)}',
    )


def _unseen(table: np.ndarray, classes: Sequence[str]) -> str:
    absent = [name for name, row in zip(classes, table) if not row.sum()]
    if not absent:
        return ''
    more = f' and {len(absent) - 5} more' if len(absent) > 5 else ''
    return f'; nothing to compare of {", ".join(absent[:5])}{more}'
