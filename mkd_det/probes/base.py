"""The contract of every probe."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from ..adapters.base import Adapter


class Probe(Adapter):
    """An adapter that runs a part of the frozen teacher again.

    It yields knowledge of one side only: what a part of the teacher makes of the
    student's features is the student's, what it makes of the student's regions is the
    teacher's. `bind` finds the part; what is kept of it must not become a child module
    (see `FrozenModule`). Files of probes may import from `heads`.

    Class attributes:
        yields: The side that `forward` yields, 'student' or 'teacher'; the levels of
            the other one are empty.
        reads_sizes: Whether `forward` takes `image_sizes`, the (H, W) of each image
            without padding; None in the plan's run.
    """

    yields: ClassVar[tuple[str, ...]] = ('student',)
    reads_sizes: ClassVar[bool] = False

    @property
    def head(self) -> nn.Module | None:
        """The head whose output the probe yields; None for features and logits."""
        return None
