"""Intermediate guidance layer between teacher and student."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ConfigError, is_integer
from ..functional import as_map
from ..registry import ADAPTERS
from ..structures import LevelSpec, full_precision
from .base import (
    Adapter,
    AdapterOutput,
    apply_to_map,
    check_level_counts,
    group_norm,
)


@ADAPTERS.register_module()
class GuidanceLayer(Adapter):
    r"""Projects student and teacher into a common space of intermediate width.

    Min, Wang: "Integrating Knowledge Distillation of Multiple Strategies": "an
    intermediate transition layer, that is, an intermediate guidance layer, between the
    teacher network and the student network to make up for the huge difference". Only
    the abstract is available; this is our reading of it. Each level has a common space
    of width :math:`\mathrm{round}_8 \sqrt{C_s C_t}`:

    - The student's side is a 1x1 conv, norm, ReLU, 1x1 conv.
    - The teacher's side is a 1x1 conv encoder :math:`E`. Together with a 1x1 conv
      decoder :math:`D` it is trained to reconstruct the teacher's features by the loss
      :math:`\| D(E(F_t)) - F_t \|^2 / \| F_t \|^2`, and by no other loss: terms read
      detached codes, so matching the student cannot collapse the space. Kim et al.:
      "Paraphrasing Complex Network: Network Compression via Factor Transfer", NeurIPS
      2018, arXiv 1802.04977, call such an encoder a paraphraser; theirs has three
      convs each way and is trained beforehand. The reconstruction uses every
      `stride`-th row and column only: both convs look at one position at a time, and
      a quarter of the positions is enough.

    With `teacher_side=False` the student's side projects directly to the teacher's
    width and the teacher's features pass through unchanged. This is the hint of Romero
    et al.: "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550.

    The norm is GroupNorm. BatchNorm is undefined for a vector or a 1x1 map at batch 1,
    keeps running statistics that are never used here, and must be synchronised over
    ranks. The encoder starts as an orthogonal matrix and the decoder as its transpose.
    This is a projection: the space preserves lengths and angles from the first step.

    Args:
        student: Shape of each level that the student's tap yields.
        teacher: Shape of each level that the teacher's tap yields.
        width: Channels of the common space, for all levels. None: the width above,
            per level.
        teacher_side: Whether the teacher's features are encoded too.
        reconstruction: Weight of the reconstruction loss. 0 freezes the encoder at
            its initial projection.
        stride: The reconstruction uses every `stride`-th row and column; 1 uses all.

    Shape:
        - student: per level (N, C_s, H_s, W_s), (N, L, C_s) or (N, C_s)
        - teacher: per level (N, C_t, H_t, W_t), (N, L, C_t) or (N, C_t)
        - output: levels of the same sizes with `width` channels on both sides (C_t
          with `teacher_side=False`); losses: dict(reconstruction=())

    Raises:
        ShapeMismatchError: Student and teacher have different numbers of levels.
    """

    def __init__(
        self,
        student: Sequence[LevelSpec],
        teacher: Sequence[LevelSpec],
        width: int | None = None,
        teacher_side: bool = True,
        reconstruction: float = 1.0,
        stride: int = 2,
    ) -> None:
        super().__init__(student, teacher)
        check_level_counts(
            'GuidanceLayer',
            student,
            teacher,
            fix="taps=dict(stages=['backbone.layer2', 'backbone.layer3'])"
            '  # one path per level',
        )
        if width is not None and width < 2:
            # Normalising a single channel would make it constant.
            raise ConfigError(
                'GuidanceLayer: width must be at least 2', actual=width, fix='width=64'
            )
        if not reconstruction >= 0:
            raise ConfigError(
                'GuidanceLayer: reconstruction must be a number >= 0',
                actual=reconstruction,
                fix='reconstruction=1.0',
            )
        if not is_integer(stride) or stride < 1:
            raise ConfigError(
                'GuidanceLayer: stride must be an integer >= 1',
                actual=stride,
                fix='stride=2',
            )
        self.reconstruction = float(reconstruction) if teacher_side else 0.0
        self.stride = stride
        pairs = [(s.channels, t.channels) for s, t in zip(student, teacher)]
        widths = [width or round8(math.sqrt(s * t)) for s, t in pairs]
        self.student_side = nn.ModuleList(
            student_side(s, w, w if teacher_side else t)
            for (s, t), w in zip(pairs, widths)
        )
        self.encoders = nn.ModuleList()
        self.decoders = nn.ModuleList()
        if teacher_side:
            for (_, t), w in zip(pairs, widths):
                self._add_teacher_side(t, w)

    def _add_teacher_side(self, channels: int, width: int) -> None:
        encoder = nn.Conv2d(channels, width, 1)
        nn.init.orthogonal_(encoder.weight)
        nn.init.zeros_(encoder.bias)  # type: ignore[arg-type]
        self.encoders.append(encoder)
        if self.reconstruction == 0:
            # No loss trains it. DDP must not wait for its gradients.
            encoder.requires_grad_(False)
            return
        decoder = nn.Conv2d(width, channels, 1)
        decoder.weight.data.copy_(encoder.weight.data.transpose(0, 1))
        nn.init.zeros_(decoder.bias)  # type: ignore[arg-type]
        self.decoders.append(decoder)

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor]
    ) -> AdapterOutput:
        """Project both sides into the common space."""
        ours = tuple(
            apply_to_map(side, level)
            for side, level in zip(self.student_side, student, strict=True)
        )
        teacher = tuple(level.detach() for level in teacher)
        if not self.encoders:
            return AdapterOutput(ours, teacher, {})
        losses = {}
        # Before the codes: autocast caches cast weights, and a weight that was first
        # cast under no_grad would get no gradient here.
        if self.decoders:
            losses['reconstruction'] = self.reconstruction * self._reconstruction_error(
                teacher
            )
        with torch.no_grad():
            codes = tuple(
                apply_to_map(encoder, level)
                for encoder, level in zip(self.encoders, teacher, strict=True)
            )
        return AdapterOutput(ours, codes, losses)

    def _reconstruction_error(self, teacher: Sequence[Tensor]) -> Tensor:
        """Return the relative squared error, mean over levels."""
        errors = []
        for encoder, decoder, level in zip(self.encoders, self.decoders, teacher):
            part = as_map(level)[:, :, :: self.stride, :: self.stride]
            errors.append(relative_error(decoder(encoder(part)), part))
        return torch.stack(errors).mean()


def round8(channels: float) -> int:
    """Return the nearest multiple of 8, at least 8."""
    return max(8, int(channels / 8 + 0.5) * 8)


def student_side(channels: int, width: int, out_channels: int) -> nn.Sequential:
    """Return the projection of the student: 1x1 conv, norm, ReLU, 1x1 conv."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 1, bias=False),
        group_norm(width),
        nn.ReLU(),
        nn.Conv2d(width, out_channels, 1),
    )


def relative_error(output: Tensor, target: Tensor) -> Tensor:
    """Return squared error over squared norm of the target, in float32."""
    output, target = full_precision(output), full_precision(target)
    return (output - target).square().sum() / target.square().sum().clamp_min(1e-6)
