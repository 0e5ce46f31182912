"""Masked generative distillation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..registry import ADAPTERS
from ..structures import LevelSpec
from .base import Adapter, AdapterOutput, apply_to_map, check_level_counts
from .linear_align import aligners


@ADAPTERS.register_module()
class MaskedGeneration(Adapter):
    r"""Generates the teacher's features from masked features of the student (MGD).

    .. math:: G(M \cdot F_s), \qquad G = \mathrm{conv}_{3 \times 3} \circ
        \mathrm{ReLU} \circ \mathrm{conv}_{3 \times 3}

    Yang, Li, Shao, Shi, Yuan, Yuan: "Masked Generative Distillation", ECCV 2022,
    arXiv 2205.01529. Features from which masked positions can be restored are good
    features. The mask M is drawn anew in each step, is shared by all channels, and
    hides each position with probability `hidden`. Where widths differ, a 1x1
    convolution comes first. Compare the output with the teacher by
    `FeatureKD(form='l2')`.

    The published code sums squares over channels and positions and divides by the
    number of images (weight 2e-5 for one-stage detectors, 5e-7 for two-stage ones).
    `FeatureKD(form='l2')` takes the mean, so the weight does not depend on the image
    size. For the vectors of classifiers the published code masks channels; here a
    vector is a single position.

    Args:
        student: Shape of each level that the student's tap yields.
        teacher: Shape of each level that the teacher's tap yields.
        hidden: Probability that a position is masked. The paper uses 0.65 for
            one-stage and 0.45 for two-stage detectors.

    Shape:
        - student: per level (N, C_s, H, W), (N, L, C_s) or (N, C_s)
        - teacher: per level (N, C_t, ...) likewise
        - output: the student's levels with C_t channels, the teacher's unchanged

    Raises:
        ShapeMismatchError: Student and teacher have different numbers of levels.
    """

    def __init__(
        self,
        student: Sequence[LevelSpec],
        teacher: Sequence[LevelSpec],
        hidden: float = 0.65,
    ) -> None:
        super().__init__(student, teacher)
        check_level_counts('MaskedGeneration', student, teacher)
        if not 0 <= hidden < 1:
            raise ConfigError(
                'MaskedGeneration: hidden must be at least 0 and below 1',
                actual=hidden,
                fix='hidden=0.65',
            )
        self.hidden = hidden
        pairs = [(s.channels, t.channels) for s, t in zip(student, teacher)]
        self.aligners = aligners(pairs)
        self.generators = nn.ModuleList(generator(t) for _, t in pairs)

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor]
    ) -> AdapterOutput:
        """Mask the student's levels and generate the teacher's from them."""
        generated = tuple(
            apply_to_map(partial(self._generate, index), level)
            for index, level in enumerate(student)
        )
        levels = tuple(level.detach() for level in teacher)
        return AdapterOutput(generated, levels, {})

    def _generate(self, index: int, level: Tensor) -> Tensor:
        aligned = self.aligners[index](level)
        visible = torch.rand_like(aligned[:, :1]) >= self.hidden
        return self.generators[index](aligned * visible)


def generator(channels: int) -> nn.Sequential:
    """Return the generation block: 3x3 conv, ReLU, 3x3 conv."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
    )
