"""Pairs the modules of a student with those of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .survey import ModuleOutput


@dataclass(frozen=True)
class Pair:
    """A student's module and the teacher's module that a term could compare with it.

    Args:
        student: The student's module.
        teacher: The teacher's module; None if there is none.
        same_path: Whether both have the same path. Otherwise they lie in the same part
            of their models and have the same strides.
    """

    student: ModuleOutput
    teacher: ModuleOutput | None
    same_path: bool = False

    @property
    def same_channels(self) -> bool:
        """Whether no adapter is needed between them."""
        return (
            self.teacher is not None and self.student.channels == self.teacher.channels
        )


def pair_modules(
    student: Sequence[ModuleOutput], teacher: Sequence[ModuleOutput]
) -> list[Pair]:
    """Find a teacher's module for every module of the student that can be tapped.

    Takes the module at the same path; failing that, one in the same part of the model
    (backbone, neck, head) whose levels have the same strides.
    """
    usable = {m.path: m for m in teacher if m.shapes and _suits_teacher(m)}
    pairs = []
    for module in student:
        if not module.shapes or module.note:
            continue
        other = usable.get(module.path)
        if other is not None and other.strides == module.strides:
            pairs.append(Pair(module, other, same_path=True))
            continue
        part = module.path.split('.')[0]
        same = [
            candidate
            for candidate in usable.values()
            if candidate.strides == module.strides
            and candidate.path.split('.')[0] == part
        ]
        # The least deep one is the last of its stage: the next stage reads it.
        best = min(same, key=lambda candidate: candidate.depth, default=None)
        pairs.append(Pair(module, best))
    return pairs


def _suits_teacher(module: ModuleOutput) -> bool:
    # A frozen layer is a fine tap of a teacher.
    return not module.note or module.note.startswith('frozen')
