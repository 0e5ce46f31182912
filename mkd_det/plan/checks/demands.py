"""Checks of one term against the shapes and heads that the probe found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...adapters.base import check_level_counts
from ...errors import ConfigError, HeadKindError, PlanError, ShapeMismatchError
from ...heads.base import Activation, HeadReader
from ...losses.base import PairLoss
from ...structures import Level, LevelSpec
from ..refs import Ref

# The equalities that `PairLoss.demands` may name.
DEMANDS = ('same_channels', 'same_spatial')


def check_features(where: str, ref: Ref, levels: Sequence[Level]) -> None:
    """Raise PlanError where features are needed and a whole head is tapped.

    Args:
        where: Name of the term or adapter, for messages.
        ref: What it reads.
        levels: The levels of that.
    """
    if any(isinstance(level, tuple) for level in levels):
        raise PlanError(
            f'{where}: {ref} yields a tuple of tensors per level (a whole head)',
            expected='feature maps or logits',
            fix="tap one layer of it, as 'bbox_head.gfl_cls', or use SoftOutputKD",
        )


def check_heads(
    where: str,
    refs: Mapping[str, Ref],
    readers: Mapping[str, HeadReader | None],
    matches_rows: bool,
) -> Activation | None:
    """Raise unless all sides are heads of one kind, or all plain logits.

    Args:
        where: Name of the term, for messages.
        refs: What it reads, by side.
        readers: The reader of each side; None for plain logits.
        matches_rows: Whether the loss matches rows itself.

    Returns:
        What the class logits of the heads are for; None for plain logits.

    Raises:
        PlanError: One side is a head, another is not.
        HeadKindError: They are heads of different kinds.
    """
    heads = {side: reader for side, reader in readers.items() if reader is not None}
    if not heads:
        return None
    if len(heads) < len(readers):
        raise PlanError(
            f'{where}: one side is a whole head, another is not',
            expected=' and '.join(map(str, refs.values())) + ' all tapped at the head',
            actual=', '.join(f'{refs[s]}: a {r.name} head' for s, r in heads.items()),
            fix="taps=dict(head='bbox_head')",
        )
    student = heads['student']
    for side, reader in heads.items():
        if reader.name != student.name:
            raise HeadKindError(
                f'{where}: the heads are of different kinds',
                expected=f'a {reader.name} head, as {refs[side]}',
                actual=f'a {student.name} head in the student',
            )
        if reader.activation != student.activation:
            raise _other_activation(where, student.activation, reader.activation)
        if not (reader.aligned or matches_rows):
            raise HeadKindError(
                f'{where}: the rows of {reader.name} heads have no common order',
                expected='a loss that matches them (`PairLoss.matches_rows`)',
                fix="type='QueryKD'",
            )
    return student.activation


def check_activations(
    where: str, refs: Mapping[str, Ref], found: Mapping[str, Activation | None]
) -> Activation | None:
    """Raise unless plain logits of both sides are for the same.

    Args:
        where: Name of the term, for messages.
        refs: What it reads, by side.
        found: What the logits of a side are for, as far as their head says.

    Returns:
        'sigmoid' where they are of independent classes; None for the usual softmax.

    Raises:
        HeadKindError: One side has exclusive classes, the other has independent ones.
    """
    student, teacher = found.get('student'), found.get('teacher')
    if student and teacher and student != teacher:
        raise _other_activation(where, student, teacher)
    return 'sigmoid' if 'sigmoid' in (student, teacher) else None


def _other_activation(where: str, student: str, teacher: str) -> HeadKindError:
    return HeadKindError(
        f'{where}: the class logits of the heads have different activations',
        expected=f'{teacher}, as the teacher',
        actual=f'{student} in the student',
        fix="a loss on features: FeatureKD with taps=dict(fpn='neck')",
    )


def not_exclusive(
    where: str, loss: type[PairLoss], refs: Mapping[str, Ref]
) -> HeadKindError:
    """Return the error of a loss of exclusive classes on independent ones.

    Args:
        where: Name of the term.
        loss: Class of the loss.
        refs: What it reads, by side.
    """
    return HeadKindError(
        f'{where}: {loss.__name__} compares exclusive classes (softmax)',
        expected='logits of a softmax',
        actual=f'{refs["student"]} has a sigmoid for each class',
        fix="type='SoftOutputKD', which takes classes='sigmoid' there",
    )


def check_demands(
    where: str,
    loss: PairLoss,
    refs: tuple[Ref, Ref],
    specs: tuple[Sequence[LevelSpec], Sequence[LevelSpec]],
    adapted: bool = False,
) -> None:
    """Raise unless two sides have the equalities that a loss demands.

    Args:
        where: Name of the term, for messages.
        loss: The loss.
        refs: What it reads of student and teacher.
        specs: The shapes of that.
        adapted: Whether the teacher's side comes from an adapter.

    Raises:
        ConfigError: The loss demands what is no known equality.
        ShapeMismatchError: The shapes are not equal.
    """
    name, (ours, theirs) = type(loss).__name__, refs
    unknown = sorted(loss.demands - set(DEMANDS))
    if unknown:
        raise ConfigError(
            f'{where}: {name}.demands names unknown equalities',
            actual=', '.join(unknown),
            available=DEMANDS,
        )
    check_level_counts(
        f'{where} ({ours} <- {theirs})',
        *specs,
        fix=f'{theirs.owner}.student, or a tap of the student with as many levels'
        if adapted
        else f'teachers.{theirs.owner}.taps=dict({theirs.key}=...) for a tap of'
        " the teacher's own, or a list of paths, a level each",
    )
    for index, (s, t) in enumerate(zip(*specs, strict=True)):
        _check_level(where, loss, refs, (s, t), index, adapted)


def _check_level(
    where: str,
    loss: PairLoss,
    refs: tuple[Ref, Ref],
    specs: tuple[LevelSpec, LevelSpec],
    index: int,
    adapted: bool,
) -> None:
    """Raise ShapeMismatchError unless a level of both sides is as the loss demands."""
    name, (ours, theirs), (s, t) = type(loss).__name__, refs, specs
    if s.length and t.length and s.length != t.length:
        raise ShapeMismatchError(
            f'{where}: level {index} is a sequence of {s.length} positions in the'
            f' student and of {t.length} in the teacher, which do not correspond',
            expected=f'{t.length} positions',
            actual=f'{s.length} positions',
            fix="FeatureKD with taps=dict(fpn='neck'), whose maps meet by stride;"
            " for queries of DETRs QueryKD with taps=dict(queries='bbox_head')",
        )
    # Classes are compared where it is known whether a map stands between them.
    compared = 'same_channels' in loss.demands and not loss.of_classes
    if compared and s.channels != t.channels:
        raise ShapeMismatchError(
            f'{where}: {name} needs equal channels; level {index} has {s.channels}'
            f' in the student and {t.channels} in the teacher',
            expected=f'{t.channels} channels',
            actual=f'{s.channels} channels',
            fix=f'{theirs.owner}.student; of class logits, equal num_classes of'
            ' both heads'
            if adapted
            else f"adapters=dict(guide=dict(type='GuidanceLayer',"
            f" student='{ours}', teacher='{theirs}'))\n"
            f"and student='guide.student', teacher='guide.teacher' in {where}",
        )
    if 'same_spatial' in loss.demands and s.size != t.size:
        raise ShapeMismatchError(
            f'{where}: {name} needs maps of equal size; level {index} differs',
            expected=f'{t.size} (stride {t.stride})',
            actual=f'{s.size} (stride {s.stride})',
            fix='taps of equal stride; `mkd-det inspect CONFIG --teacher t` shows them',
        )


def check_result(where: str, result: Any) -> dict[str, float]:
    """Raise unless a loss on zeros is a finite number, or a dict of them.

    Args:
        where: Name of the term, for messages.
        result: What the loss returned.

    Returns:
        Its parts by name; '' for a loss without parts.

    Raises:
        ConfigError: It is anything else.
    """
    parts = result if isinstance(result, dict) else {'': result}
    for name, part in parts.items():
        if not isinstance(part, torch.Tensor) or part.numel() != 1:
            shape = tuple(part.shape) if isinstance(part, torch.Tensor) else part
            raise ConfigError(
                f'{where} {name}: a loss must yield one number, or a dict of them',
                expected='a tensor of shape ()',
                actual=shape,
            )
        if not torch.isfinite(part):
            raise ConfigError(
                f'{where} {name}: the loss is not finite on zeros', actual=float(part)
            )
    return {name: float(part) for name, part in parts.items()}
