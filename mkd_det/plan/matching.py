"""Which levels of a student meet which levels of a teacher: those of equal stride."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..config import Match
from ..errors import ShapeMismatchError

T = TypeVar('T')
Stride = int | None


@dataclass(frozen=True)
class LevelMatch:
    """Levels of two sides that belong together.

    Args:
        student: Indices of the student's levels; None for all.
        teacher: Indices of as many levels of the teacher; None for all.
        words: What is matched and what is left out, in words; empty for all by index.
    """

    student: tuple[int, ...] | None = None
    teacher: tuple[int, ...] | None = None
    words: str = ''

    def of(self, side: str) -> tuple[int, ...] | None:
        """Return the indices of the levels of a side; None for all."""
        return self.student if side == 'student' else self.teacher


def match_levels(
    student: Sequence[Stride],
    teacher: Sequence[Stride],
    where: str,
    refs: tuple[object, object],
    how: Match = 'stride',
    heads: bool = False,
) -> LevelMatch:
    """Match the levels of two sides by stride.

    Levels stay as they are, by index, where the strides are equal one by one, where
    a side has no strides (vectors, sequences), where both sides have one level, or
    where the config says `match='index'`. Where a side has several levels of one
    stride, the first meets the first.

    Args:
        student: Input pixels per cell of each level of the student.
        teacher: Likewise of the teacher.
        where: Name of the term or adapter, for messages.
        refs: What both read, for messages.
        how: What the config says.
        heads: Whether the levels are those of heads, whose places must be the same.

    Raises:
        ShapeMismatchError: No level has a stride of the other side.
    """
    ours, theirs = list(student), list(teacher)
    if how == 'index' or ours == theirs or None in (*ours, *theirs):
        return LevelMatch()
    if len(ours) == len(theirs) == 1:
        return LevelMatch(words=f'stride {ours[0]} meets {theirs[0]}, the only levels')
    pairs: list[tuple[int, int]] = []
    free = list(range(len(theirs)))
    for index, stride in enumerate(ours):
        other = next((i for i in free if theirs[i] == stride), None)
        if other is not None:
            free.remove(other)
            pairs.append((index, other))
    if not pairs:
        raise ShapeMismatchError(
            f'{where}: no level of {refs[0]} has the stride of a level of {refs[1]}',
            expected='strides ' + _list(theirs) + ', as the teacher',
            actual='strides ' + _list(ours) + ' in the student',
            fix='taps of equal strides (`mkd-det inspect` shows them)'
            + f", or match='index' in {where}, which pairs levels by their place"
            * (len(ours) == len(theirs) and not heads),
        )
    kept_s, kept_t = (tuple(side) for side in zip(*pairs))
    words = 'strides ' + _list([ours[index] for index in kept_s])
    for name, strides, kept in ((refs[0], ours, kept_s), (refs[1], theirs, kept_t)):
        left = [s for index, s in enumerate(strides) if index not in kept]
        if left:
            words += f'; left out of {name}: {_list(left)}'
    return LevelMatch(kept_s, kept_t, words)


def pick(levels: Sequence[T], kept: Sequence[int] | None) -> tuple[T, ...]:
    """Return the levels of the given indices; all for None."""
    return tuple(levels) if kept is None else tuple(levels[index] for index in kept)


def _list(strides: Sequence[Stride]) -> str:
    return ', '.join(map(str, strides))
