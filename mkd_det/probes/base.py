"""The contract of every probe."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

from torch import nn

from ..adapters.base import Adapter


class Probe(Adapter):
    """An adapter that runs a part of the frozen teacher again.

    It yields knowledge of one side only: what a part of the teacher makes of the
    student's features is the student's, what it makes of the student's regions is the
    teacher's. A probe that runs a part of the student as well yields both sides, for
    the same inputs. `bind` finds the part; what is kept of it must not become a child
    module (see `FrozenModule`, `StudentModule`). Files of probes may import from
    `heads`.

    Class attributes:
        yields: The sides that `forward` yields; the levels of the other one are empty.
        reads_calls: The sides of which it reads whole calls, by taps such as
            'decoder:call'; of the others it reads features.
        takes: What more `forward` takes by name: 'image_sizes', the (H, W) of each
            image without padding; 'truth', the boxes of those that have labels. Both
            are missing in the plan's run.
        aligned: Whether row i of both sides belongs together, where the heads that it
            runs have no order of rows otherwise.
    """

    yields: ClassVar[tuple[str, ...]] = ('student',)
    reads_calls: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[tuple[str, ...]] = ()
    aligned: ClassVar[bool] = False

    @property
    def head(self) -> nn.Module | None:
        """The head whose output the probe yields; None for features and logits."""
        return None

    def head_of(self, side: str) -> nn.Module | None:
        """Return the head whose output the probe yields for a side.

        Args:
            side: 'student' or 'teacher'.
        """
        return self.head

    def bind_student(self, student: nn.Module, tap: Any, where: str) -> None:
        """Find the part of the student that the probe runs again, if any.

        The plan calls it once, after `bind`.

        Args:
            student: The student.
            tap: The student's tap that the probe reads (`taps.Tap`).
            where: Name of this probe, for messages.
        """


class StudentModule:
    """Keeps the student, or a part of it, out of the probe's own modules.

    It is trained and saved as the student already. A copy of the whole distiller has a
    probe of the student's copy.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __deepcopy__(self, memo: dict) -> StudentModule:
        return StudentModule(deepcopy(self.module, memo))
