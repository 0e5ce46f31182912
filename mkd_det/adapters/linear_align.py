"""Linear feature alignment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from ..registry import ADAPTERS
from ..structures import LevelSpec
from .base import Adapter, AdapterOutput, apply_to_map, check_level_counts


@ADAPTERS.register_module()
class LinearAlign(Adapter):
    """Projects the student's features to the teacher's width with a 1x1 convolution.

    Levels of equal width pass through unchanged. This is the smallest adapter for
    features of different widths: what a loss finds missing must be learned by the
    student, because the adapter cannot learn it. Romero et al.: "FitNets: Hints for
    Thin Deep Nets", ICLR 2015, arXiv 1412.6550, use such a regressor with larger
    kernels.

    Args:
        student: Shape of each level that the student's tap yields.
        teacher: Shape of each level that the teacher's tap yields.

    Shape:
        - student: per level (N, C_s, H, W), (N, L, C_s) or (N, C_s)
        - teacher: per level (N, C_t, ...) likewise
        - output: the student's levels with C_t channels, the teacher's unchanged

    Raises:
        ShapeMismatchError: Student and teacher have different numbers of levels.
    """

    def __init__(
        self, student: Sequence[LevelSpec], teacher: Sequence[LevelSpec]
    ) -> None:
        super().__init__(student, teacher)
        check_level_counts('LinearAlign', student, teacher)
        self.aligners = aligners(
            (s.channels, t.channels) for s, t in zip(student, teacher)
        )

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor]
    ) -> AdapterOutput:
        """Project the student's levels; detach the teacher's."""
        ours = tuple(
            apply_to_map(aligner, level)
            for aligner, level in zip(self.aligners, student, strict=True)
        )
        return AdapterOutput(ours, tuple(level.detach() for level in teacher), {})


def aligners(pairs: Iterable[Sequence[int]], bias: bool = True) -> nn.ModuleList:
    """Return a 1x1 convolution for each pair of widths, an identity for equal ones."""
    return nn.ModuleList(
        nn.Identity() if s == t else nn.Conv2d(s, t, 1, bias=bias) for s, t in pairs
    )
