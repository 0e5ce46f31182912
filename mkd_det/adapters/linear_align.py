"""Linear feature alignment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from ..errors import ShapeMismatchError
from ..registry import ADAPTERS
from ..structures import LevelSpec
from .base import Adapter, AdapterOutput, apply_to_map


@ADAPTERS.register_module()
class LinearAlign(Adapter):
    """Leads the student's features into the teacher's width, by a 1x1 convolution.

    Nothing where widths are equal: features are then compared as they are. It is the
    least that features of different widths need, so that whatever a loss finds missing
    must be learned by the student, not by the adapter. (Romero et al.: "FitNets: Hints
    for Thin Deep Nets", ICLR 2015, arXiv 1412.6550, have such a regressor, with larger
    filters.)

    Args:
        student: Shape of each level that the student's tap yields.
        teacher: Shape of each level that the teacher's tap yields.

    Shape:
        - student: per level (N, C_s, H, W), (N, L, C_s) or (N, C_s)
        - teacher: per level (N, C_t, ...) likewise
        - output: student's levels with C_t channels, the teacher's as they are

    Raises:
        ShapeMismatchError: They yield different numbers of levels.
    """

    def __init__(
        self, student: Sequence[LevelSpec], teacher: Sequence[LevelSpec]
    ) -> None:
        super().__init__(student, teacher)
        if len(student) != len(teacher):
            raise ShapeMismatchError(
                'LinearAlign: student and teacher yield different numbers of levels',
                expected=f'{len(teacher)} levels',
                actual=f'{len(student)} levels',
                fix="taps of as many levels on both sides, such as dict(fpn='neck')",
            )
        self.aligners = aligners(
            (s.channels, t.channels) for s, t in zip(student, teacher)
        )

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor]
    ) -> AdapterOutput:
        """Lead the student into the teacher's width."""
        ours = tuple(
            apply_to_map(aligner, level)
            for aligner, level in zip(self.aligners, student, strict=True)
        )
        return AdapterOutput(ours, tuple(level.detach() for level in teacher), {})


def aligners(pairs: Iterable[Sequence[int]], bias: bool = True) -> nn.ModuleList:
    """A 1x1 convolution for each pair of widths; nothing where they are equal."""
    return nn.ModuleList(
        nn.Identity() if s == t else nn.Conv2d(s, t, 1, bias=bias) for s, t in pairs
    )
