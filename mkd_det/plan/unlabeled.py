"""What a plan says of images without labels."""

from __future__ import annotations

from ..config import DistillConfig, UnlabeledConfig
from ..errors import PlanError
from ..heads.base import HeadReader
from .plan import Plan
from .refs import Ref


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
    given = config.unlabeled
    left_out = [
        name
        for name, term in plan.terms.items()
        if (given.terms is not None and name not in given.terms)
        or term.loss.truth == 'labels'
        or (term.loss.truth and plan.truth is None)
    ]
    if left_out and given != UnlabeledConfig():
        names = ', '.join(left_out)
        notes.append(f'images without labels are not read by {names}')
    return notes
