"""Teachers whose outputs are stored: what can be read of them, and who reads it."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..config import DistillConfig
from ..errors import PlanError
from ..heads.readers.dense import DenseReader
from ..teachers.stored.outputs import StoredReader
from .plan import Plan, Term


def use_stored_outputs(plan: Plan, config: DistillConfig, student: nn.Module) -> None:
    """Let terms read the rows of stored teachers; refuse what these do not have.

    Args:
        plan: The plan; its readers are replaced.
        config: The config.
        student: The student.

    Raises:
        PlanError: A term reads something else than the output of a stored teacher's
            dense head, or images change where the pipeline does not see it.
    """
    stored = {n: t.stored for n, t in config.teachers.items() if t.stored is not None}
    if not stored:
        return
    _check_batch_augments(student)
    wrong = [name for name, term in plan.terms.items() if _lacks(plan, term, stored)]
    if wrong:
        off = ', '.join(f'{name}=dict(weight=0)' for name in wrong)
        others = [name for name in plan.terms if name not in wrong]
        teachers = sorted(
            set().union(*(plan.teachers_of(plan.terms[n]) for n in wrong))
        )
        raise PlanError(
            f'the outputs of {", ".join(sorted(stored))} are stored, and '
            + ', '.join(wrong)
            + ' would need the model',
            expected='terms that read the output of its dense head, such as'
            " SoftOutputKD(student='head', teacher='t.head')",
            actual='; '.join(str(plan.terms[name]) for name in wrong),
            fix=f'terms=dict({off})'
            if others
            else 'the recipe soft_dense in place of these terms; or no `stored` in'
            f' teachers.{teachers[0]}',
        )
    weighed = sorted(set(config.weighed_taps) & set(stored) & set(plan.taps))
    if weighed:
        raise PlanError(
            f'teacher_weights reads logits of whole images, and the outputs of'
            f' {weighed[0]} are stored',
            fix=f'teacher_weights=dict(teachers=[...]) without {weighed[0]!r}',
        )
    for term in plan.terms.values():
        for side, ref in term.refs.items():
            if ref.owner in stored:
                term.readers[side] = StoredReader(term.readers[side])
    if plan.truth is not None and plan.truth.ref.owner in stored:
        plan.truth.reader = StoredReader(plan.truth.reader)
    for name in stored.keys() & plan.speeds.keys():
        plan.speeds[name] = f'read from {stored[name]}'


def _lacks(plan: Plan, term: Term, stored: Any) -> bool:
    """Return whether a term needs more of a stored teacher than its head's output."""
    for side, ref in term.refs.items():
        node = plan.adapters.get(ref.owner)
        if node is not None and plan.teachers_of(node) & stored.keys():
            return True
        if ref.owner in stored:
            reader = term.readers.get(side)
            beside = term.beside.get(side)
            if not isinstance(reader, DenseReader) or reader.name != 'dense' or beside:
                return True
    return False


def _check_batch_augments(student: nn.Module) -> None:
    """Raise where whole batches are transformed, of which a sample says nothing."""
    preprocessor: Any = getattr(student, 'data_preprocessor', None)
    augments = getattr(preprocessor, 'batch_augments', None)
    if augments:
        names = ', '.join(type(one).__name__ for one in augments)
        raise PlanError(
            f'{names} transforms whole batches, so that stored outputs would be of'
            ' other images',
            expected='flips, resizing and crops in the pipeline',
            actual=f'data_preprocessor.batch_augments: {names}',
            fix='student=dict(data_preprocessor=dict(batch_augments=None))',
        )
