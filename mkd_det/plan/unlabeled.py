"""Which terms read images without labels, and what a plan says of them."""

from __future__ import annotations

from collections.abc import Mapping

from ..config import DistillConfig, UnlabeledConfig
from ..errors import PlanError
from ..heads.base import HeadReader
from ..taps import Tap
from .plan import Plan, Term
from .refs import Ref

# A student's second stage runs on labelled images only.
_SECOND_STAGE = 'roi_head.'


def check_truth_reader(ref: Ref, reader: HeadReader | None) -> None:
    """Raise unless a teacher's head can stand for ground truth.

    Args:
        ref: The head, as `unlabeled.truth` names it.
        reader: Its reader; None for no head.

    Raises:
        PlanError: It is no dense head.
    """
    if reader is None or reader.name != 'dense':
        raise PlanError(
            f'unlabeled.truth: {ref} has no boxes at all positions of the image',
            expected='a dense head of a teacher',
            actual='no head' if reader is None else f'a {reader.name} head',
            fix="taps=dict(head='bbox_head'), unlabeled=dict(truth='t.head')",
        )


def describe_unlabeled(config: DistillConfig, plan: Plan) -> list[str]:
    """Say who learns without labels, and who cannot, a sentence each.

    Args:
        config: The config.
        plan: Its plan.
    """
    notes = []
    if config.task_weight == 0:
        notes.append(
            'task_weight is 0: the student learns from its teachers alone, and no label'
            ' is used by its own loss'
        )
    if config.unlabeled != UnlabeledConfig():
        notes += describe_left_out(config, plan)
    if config.unlabeled.truth is not None and plan.truth is None:
        notes.append('unlabeled.truth has no effect: no term asks for boxes')
    return notes


def describe_left_out(config: DistillConfig, plan: Plan) -> list[str]:
    """Name the terms that do not read images without labels; empty if all do.

    Args:
        config: The config.
        plan: Its plan.
    """
    reading = terms_without_labels(config, plan, plan.terms)
    left_out = ', '.join(name for name in plan.terms if name not in reading)
    return [f'images without labels are not read by {left_out}'] if left_out else []


def terms_without_labels(
    config: DistillConfig, plan: Plan, terms: Mapping[str, Term]
) -> dict[str, Term]:
    """Return those of some terms that read images without labels.

    Args:
        config: The config.
        plan: Its plan.
        terms: Terms of the plan, by name.
    """
    wanted = config.unlabeled.terms
    return {
        name: term
        for name, term in terms.items()
        if (wanted is None or name in wanted)
        and (not term.loss.truth or _has_teacher_truth(plan, term))
        and not reads_second_stage(plan, term)
    }


def _has_teacher_truth(plan: Plan, term: Term) -> bool:
    return term.loss.truth == 'boxes' and plan.truth is not None


def reads_second_stage(plan: Plan, term: Term) -> bool:
    """Return whether a term reads what runs on labelled images only.

    Args:
        plan: The plan.
        term: One of its terms.
    """
    taps = plan.taps.get('student', {})
    refs = list(term.refs.values())
    for ref in term.refs.values():
        node = plan.adapters.get(ref.owner)
        refs += list(node.refs.values()) if node else []
    return any(
        ref.owner == 'student' and is_second_stage(taps[ref.key]) for ref in refs
    )


def is_second_stage(tap: Tap) -> bool:
    """Return whether a student's tap is in its second stage."""
    return tap.paths[0].startswith(_SECOND_STAGE)
