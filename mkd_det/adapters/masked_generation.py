"""The student's features, masked, generate the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ShapeMismatchError
from ..registry import ADAPTERS
from ..structures import LevelSpec
from .base import Adapter, AdapterOutput, apply_to_map
from .linear_align import aligners


@ADAPTERS.register_module()
class MaskedGeneration(Adapter):
    r"""From a part of the student's features, all of the teacher's (MGD).

    .. math:: G(M \cdot F_s), \qquad G = \mathrm{conv}_{3 \times 3} \circ
        \mathrm{ReLU} \circ \mathrm{conv}_{3 \times 3}

    Yang, Li, Shao, Shi, Yuan, Yuan: "Masked Generative Distillation", ECCV 2022,
    arXiv 2205.01529: a feature that its surroundings can restore is a good feature. M
    is drawn anew in each step, one for all channels, and hides a place with
    probability `hidden`. Where widths differ, a 1x1 convolution comes first. What is
    generated meets the teacher in `FeatureKD(form='l2')`.

    The published code sums squares over channels and places and divides by images
    alone (weight 2e-5 for one-stage detectors, 5e-7 for two stages); `FeatureKD`
    takes the mean, so that the weight does not depend on the size of images. It hides
    a channel, not a place, of classifiers' vectors; here vectors are a place.

    Args:
        student: Shape of each level that the student's tap yields.
        teacher: Shape of each level that the teacher's tap yields.
        hidden: Share of the places that are hidden: 0.65 in the paper for one stage,
            0.45 for two.

    Shape:
        - student: per level (N, C_s, H, W), (N, L, C_s) or (N, C_s)
        - teacher: per level (N, C_t, ...) likewise
        - output: student's levels with C_t channels, the teacher's as they are
    """

    def __init__(
        self,
        student: Sequence[LevelSpec],
        teacher: Sequence[LevelSpec],
        hidden: float = 0.65,
    ) -> None:
        super().__init__(student, teacher)
        if len(student) != len(teacher):
            raise ShapeMismatchError(
                'MaskedGeneration: student and teacher yield different numbers of'
                ' levels',
                expected=f'{len(teacher)} levels',
                actual=f'{len(student)} levels',
            )
        if not 0 <= hidden < 1:
            raise ConfigError(
                'MaskedGeneration: hidden must be from 0 to below 1', actual=hidden
            )
        self.hidden = hidden
        pairs = [(s.channels, t.channels) for s, t in zip(student, teacher)]
        self.aligners = aligners(pairs)
        self.generators = nn.ModuleList(generator(t) for _, t in pairs)

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor]
    ) -> AdapterOutput:
        """Hide, and generate."""
        generated = tuple(
            apply_to_map(partial(self._generate, index), level)
            for index, level in enumerate(student)
        )
        levels = tuple(level.detach() for level in teacher)
        return AdapterOutput(generated, levels, {})

    def _generate(self, index: int, level: Tensor) -> Tensor:
        aligned = self.aligners[index](level)
        seen = torch.rand_like(aligned[:, :1]) >= self.hidden
        return self.generators[index](aligned * seen)


def generator(channels: int) -> nn.Sequential:
    """3x3 conv, ReLU, 3x3 conv."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
    )
