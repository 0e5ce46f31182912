"""Which class of a teacher is which of the student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .matching import similar_name

Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Classes:
    """The classes of a model.

    Args:
        count: Their number, without background.
        names: Their names in the order of the labels; empty where they are not known.
    """

    count: int
    names: tuple[str, ...] = ()

    def name(self, index: int) -> str:
        """Return the name of a class, or its index where names are not known."""
        return self.names[index] if self.names else str(index)


@dataclass(frozen=True)
class ClassMap:
    """Says for each class of the student which class of a teacher is the same.

    Args:
        teacher: Name of the teacher.
        ours: The student's classes.
        theirs: The teacher's classes.
        sources: Indices of the teacher's classes by class of the student: none where
            the teacher does not know it, several where it is their union.
        reasons: How each was found, in words.
    """

    teacher: str
    ours: Classes
    theirs: Classes
    sources: Groups
    reasons: tuple[str, ...] = ()

    @property
    def shared(self) -> tuple[int, ...]:
        """Indices of the student's classes that the teacher knows."""
        return tuple(index for index, group in enumerate(self.sources) if group)

    @property
    def unknown(self) -> tuple[int, ...]:
        """Indices of the student's classes that the teacher does not know."""
        return tuple(index for index, group in enumerate(self.sources) if not group)

    @property
    def foreign(self) -> tuple[int, ...]:
        """Indices of the teacher's classes that are none of the student's."""
        known = {index for group in self.sources for index in group}
        return tuple(index for index in range(self.theirs.count) if index not in known)

    @property
    def changes_nothing(self) -> bool:
        """Whether both have the same classes in the same order."""
        same = self.sources == tuple((index,) for index in range(self.ours.count))
        return same and self.ours.count == self.theirs.count

    def groups(self, whose: str, background: bool) -> Groups:
        """Return the columns of a head that make one column of the shared classes.

        Args:
            whose: Whose classes the head has, 'student' or 'teacher'.
            background: Whether the last column is the background. To the student,
                objects of classes that it lacks are background: so the teacher's
                background takes those in.
        """
        if whose == 'student':
            columns: Groups = tuple((index,) for index in self.shared)
            return (*columns, (self.ours.count,)) if background else columns
        columns = tuple(self.sources[index] for index in self.shared)
        rest = (self.theirs.count, *self.foreign)
        return (*columns, rest) if background else columns

    def labels_of(self, whose: str) -> dict[int, int]:
        """Return the index among the shared classes, by label of a model.

        Args:
            whose: Whose labels, 'student' or 'teacher'. Labels that are not shared are
                left out; the background is the last.
        """
        groups = self.groups(whose, False)
        labels = {label: index for index, group in enumerate(groups) for label in group}
        count = self.ours.count if whose == 'student' else self.theirs.count
        return {**labels, count: len(groups)}

    @property
    def shared_names(self) -> tuple[str, ...]:
        """Names of the shared classes, as the student has them."""
        return tuple(self.ours.name(index) for index in self.shared)

    def rows(self) -> list[tuple[str, str, str]]:
        """Return, for each class of the student, the teacher's class, and how."""
        return [
            (
                self.ours.name(index),
                ' + '.join(map(self.theirs.name, group)) or '-',
                self.reasons[index] if group else self._reason_without(index),
            )
            for index, group in enumerate(self.sources)
        ]

    def _reason_without(self, index: int) -> str:
        words = 'gets nothing from the teacher'
        others = (
            [self.theirs.name(i) for i in self.foreign] if self.theirs.names else []
        )
        similar = similar_name(self.ours.name(index), others)
        return f'{words}; perhaps {similar!r}?' if similar else words

    def summary(self) -> str:
        """Return the map in a sentence or two."""
        if self.changes_nothing:
            return 'the same classes in the same order: the map changes nothing'
        text = f'{len(self.shared)} of {self.ours.count} classes are taught'
        if self.unknown:
            names = _listed([self.ours.name(index) for index in self.unknown])
            text += f'; {names}: nothing from this teacher'
        if self.foreign:
            text += f'; {len(self.foreign)} classes of the teacher are not the student'
            text += "'s"
        return text

    def __str__(self) -> str:
        pairs = ', '.join(
            f'{ours} <- {theirs}' for ours, theirs, _ in self.rows() if theirs != '-'
        )
        return f'{self.summary()} ({pairs})' if pairs else self.summary()


def _listed(names: Sequence[str], limit: int = 12) -> str:
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more
