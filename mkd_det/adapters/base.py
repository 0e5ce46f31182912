"""The contract of every adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ..structures import LevelSpec


class AdapterOutput(NamedTuple):
    """What an adapter makes of one step's knowledge.

    Args:
        student: Adapted levels of the student, read as `<name>.student`.
        teacher: Adapted levels of the teacher, read as `<name>.teacher`.
        losses: The adapter's own losses, logged as `loss_<name>_<key>`.
    """

    student: tuple[Tensor, ...]
    teacher: tuple[Tensor, ...]
    losses: dict[str, Tensor]


class Adapter(nn.Module):
    """A small trainable module between student and teacher knowledge.

    It lives only in training: the exported student knows nothing of it. The
    plan gives the shapes that it found by probing; a subclass builds its
    layers from them and writes `forward`.

    Args:
        student: Shape of each level that the student's tap yields.
        teacher: Shape of each level that the teacher's tap yields.
    """

    def __init__(
        self, student: Sequence[LevelSpec], teacher: Sequence[LevelSpec]
    ) -> None:
        super().__init__()
        self.student_specs = tuple(student)
        self.teacher_specs = tuple(teacher)

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor]
    ) -> AdapterOutput:
        """Adapt one step's levels."""
        raise TypeError(f'{type(self).__name__} must define forward()')
