"""The contract of every adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from ..errors import ShapeMismatchError
from ..functional import as_map
from ..structures import Levels, LevelSpec


class AdapterOutput(NamedTuple):
    """What an adapter returns for one step.

    Args:
        student: Adapted levels of the student, read as `<name>.student`.
        teacher: Adapted levels of the teacher, read as `<name>.teacher`.
        losses: The adapter's own losses, logged as `loss_<name>_<key>`: scalars, or
            (N,) with a value for each sample. `teacher_weights` weighs those; their
            mean is added to the loss.
    """

    student: Levels
    teacher: Levels
    losses: dict[str, Tensor]


class FrozenModule:
    """Keeps a module of a teacher out of the module tree.

    Copies share the module, as they share the teachers.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Tensor) -> Tensor:
        """Run the module."""
        return self.module(*args)

    def __deepcopy__(self, memo: dict) -> FrozenModule:
        return self


class Adapter(nn.Module):
    """A small trainable module between student and teacher knowledge.

    It exists in training only; the exported student does not have it. The plan gives
    the shapes that it found by probing; a subclass builds its layers from them and
    writes `forward`.

    Args:
        student: Shape of each level that the student's tap yields.
        teacher: Shape of each level that the teacher's tap yields.

    Class attributes:
        yields: The sides that `forward` yields and terms can read.
    """

    yields: ClassVar[tuple[str, ...]] = ('student', 'teacher')

    def __init__(
        self, student: Sequence[LevelSpec], teacher: Sequence[LevelSpec]
    ) -> None:
        super().__init__()
        self.student_specs = tuple(student)
        self.teacher_specs = tuple(teacher)

    @classmethod
    def suggest_taps(cls, model: nn.Module) -> tuple[str, ...]:
        """Return paths of a model that the adapter can read, for advice in errors.

        Args:
            model: The student or a teacher.

        Returns:
            Paths; empty where none are better than others.
        """
        return ()

    def bind(self, teacher: nn.Module, tap: Any, where: str) -> None:
        """Find the part of the frozen teacher that the adapter uses, if any.

        The plan calls it once, before the first forward. The part must not become a
        child module (see `FrozenModule`).

        Args:
            teacher: The teacher's model.
            tap: The tap that the adapter reads (`taps.Tap`).
            where: Name of this adapter, for messages.
        """

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor]
    ) -> AdapterOutput:
        """Adapt one step's levels."""
        raise TypeError(f'{type(self).__name__} must define forward()')


def check_level_counts(
    where: str,
    student: Sequence[LevelSpec],
    teacher: Sequence[LevelSpec],
    fix: str = "taps with equally many levels on both sides, such as dict(fpn='neck')",
) -> None:
    """Raise unless student and teacher have equally many levels.

    Args:
        where: Name of the adapter or term, for the message.
        student: Shape of each level of the student.
        teacher: Shape of each level of the teacher.
        fix: What to write instead.

    Raises:
        ShapeMismatchError: The numbers of levels differ.
    """
    if len(student) != len(teacher):
        raise ShapeMismatchError(
            f'{where}: student and teacher have different numbers of levels',
            expected=f'{len(teacher)} levels: ' + ' '.join(map(str, teacher)),
            actual=f'{len(student)} levels: ' + ' '.join(map(str, student)),
            fix=fix,
        )


def apply_to_map(module: Callable[[Tensor], Tensor], level: Tensor) -> Tensor:
    """Run a module for maps on a level of any kind, and restore its dimensions."""
    out = module(as_map(level))
    if level.dim() == 2:
        return out.flatten(1)
    return out.squeeze(-1).transpose(1, 2) if level.dim() == 3 else out


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm with at least 8 channels per group.

    A group of one channel would be constant on 1x1 maps.
    """
    return nn.GroupNorm(math.gcd(max(channels // 8, 1), channels), channels)
