"""Which of configs/_base_/recipes suit a pair: for errors about one that does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..heads.regions import check_box_heads
from ..errors import (HeadKindError, PlanError, ShapeMismatchError, TapNotFoundError, TeacherClassesError)
from ..heads.dense import (DenseReader, check_comparable, head_kind, is_dense_head, reads_bins)

PYRAMID = ('cwd_dense', 'fgd_dense', 'mgd_dense', 'pkd_dense')
DENSE, DISTRIBUTIONS, ROWS = 'soft_dense', 'ld_dense', 'crosskd_dense'
WHOLE = (
    'mkd_dense',
    'mkd_balanced_dense',
    'mkd_fgd_dense',
    'mkd_fgd_balanced_dense',
)
TWO_STAGE = ('dist_two_stage', 'dkd_two_stage')
CLASSIFIERS = 'kd_logits'


@contextmanager
def suggested(student: nn.Module, teacher: nn.Module | None) -> Iterator[None]:
    """Let errors about a recipe that does not fit a pair name those that would.

    Args:
        student: The student.
        teacher: The first teacher; None if there is none.
    """
    try:
        yield
    except ShapeMismatchError:
        raise  # a matter of widths, not of kinds
    except (TapNotFoundError, PlanError) as error:
        fitting = recipes_for(student, teacher) if teacher is not None else []
        if fitting:
            line = f'recipes that fit the pair: {", ".join(fitting)}'
            error.fix = f'{error.fix}\n{line}' if error.fix else line
        raise


def recipes_for(student: nn.Module, teacher: nn.Module) -> list[str]:
    """Names of the recipes that fit as they are."""
    found = _of(student) & _of(teacher)
    ours, theirs = _Parts(student), _Parts(teacher)
    if ours.levels != theirs.levels:
        found -= {*PYRAMID, *WHOLE, ROWS}
    if DENSE in found and not _meet(ours.head, theirs.head):
        found -= {DENSE, DISTRIBUTIONS, *WHOLE}
    if DISTRIBUTIONS in found and reads_bins(ours.head) != reads_bins(theirs.head):
        found -= {DISTRIBUTIONS}
    return sorted(found)


class _Parts:
    """Of a model, as far as it has them."""

    def __init__(self, model: Any) -> None:
        self.head = getattr(model, 'bbox_head', None)
        self.levels = getattr(getattr(model, 'neck', None), 'num_outs', 0)


def _meet(student: Any, teacher: Any) -> bool:
    """Whether what two dense heads yield can be compared."""
    sizes = [(1, 1)] * student.prior_generator.num_levels
    try:
        check_comparable(student, teacher, (sizes, sizes), '')
    except (HeadKindError, TeacherClassesError):
        return False
    return True


def _of(model: nn.Module) -> set[str]:
    """Those whose taps a model has."""
    names = dict(model.named_modules())
    found: set[str] = set()
    if 'neck.fpn_convs' in names:
        found |= {*PYRAMID}
    head = names.get('bbox_head')
    if head is not None and is_dense_head(head) and _is_read(head):
        if {'bbox_head.cls_convs.2', 'bbox_head.reg_convs.2'} <= set(names):
            found |= {ROWS}
        if head_kind(head) == 'sigmoid':  # whose classes can be balanced
            found |= {DENSE}
            if reads_bins(head):
                found |= {DISTRIBUTIONS}
            if {'backbone.layer2', 'backbone.layer4', 'neck.fpn_convs'} <= set(names):
                found |= {*WHOLE}
    if 'roi_head' in names and _is_read_by_regions(model):
        found |= {*TWO_STAGE}
    if isinstance(names.get('head'), nn.Linear):
        found |= {CLASSIFIERS}
    return found


def _is_read(head: nn.Module) -> bool:
    try:
        DenseReader(head)
    except HeadKindError:
        return False
    return True


def _is_read_by_regions(model: nn.Module) -> bool:
    try:
        check_box_heads(model, '')
    except HeadKindError:
        return False
    return True
