"""The intermediate guidance layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ShapeMismatchError, is_integer
from ..functional import as_map
from ..registry import ADAPTERS
from ..structures import LevelSpec, full_precision
from .base import Adapter, AdapterOutput, apply_to_map, group_norm


@ADAPTERS.register_module()
class GuidanceLayer(Adapter):
    r"""Student and teacher meet half way, in a space of its own per level.

    Min, Wang: "Integrating Knowledge Distillation of Multiple Strategies": "an
    intermediate transition layer, that is, an intermediate guidance layer, between the
    teacher network and the student network to make up for the huge difference". Only
    the abstract can be had; this is our reading of it. Per level, in a space of width
    :math:`\mathrm{round}_8 \sqrt{C_s C_t}`:

    - the student's side is a 1x1 conv, norm, ReLU, 1x1 conv;
    - the teacher's side is a 1x1 conv encoder :math:`E`, which with a 1x1 conv decoder
      :math:`D` learns to reconstruct the teacher,
      :math:`\| D(E(F_t)) - F_t \|^2 / \| F_t \|^2`, and learns from nothing else: what
      the terms read of it is detached, so that matching cannot collapse the space. As
      the paraphraser in Kim et al.: "Paraphrasing Complex Network: Network Compression
      via Factor Transfer", NeurIPS 2018, arXiv 1802.04977, which has three convs each
      way and trains it beforehand. It learns from every second row and column of the
      maps, a quarter of the places: both convs look at one place at a time, and there
      are more than enough of them.

    With `teacher_side=False` the student's side leads straight into the teacher's
    width, and the teacher passes through: the hint of Romero et al.: "FitNets: Hints
    for Thin Deep Nets", ICLR 2015, arXiv 1412.6550.

    The norm is GroupNorm. BatchNorm is undefined for a vector or a 1x1 map at batch 1,
    keeps running statistics that nobody reads, and needs synchronising over ranks.
    The encoder starts as an orthogonal matrix and the decoder as its transpose: a
    projection, so that the space preserves lengths and angles from the first step.

    Args:
        student: Shape of each level that the student's tap yields.
        teacher: Shape of each level that the teacher's tap yields.
        width: Channels of the space, for all levels. None: as above, per level.
        teacher_side: Whether the teacher gets a side.
        reconstruction: Weight of the reconstruction. At 0 the encoder stays as it
            starts, a fixed projection.
        stride: Between the rows, and columns, that it is learned from; 1 for all.

    Shape:
        - student: per level (N, C_s, H_s, W_s), (N, L, C_s) or (N, C_s)
        - teacher: per level (N, C_t, H_t, W_t), (N, L, C_t) or (N, C_t)
        - output: levels of the same sizes with `width` channels on both sides (C_t
          with `teacher_side=False`); losses: dict(reconstruction=())
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
        if len(student) != len(teacher):
            raise ShapeMismatchError(
                'GuidanceLayer: student and teacher yield different numbers of levels',
                expected=f'{len(teacher)} levels: {_list(teacher)}',
                actual=f'{len(student)} levels: {_list(student)}',
                fix="taps=dict(stages=['backbone.layer2', 'backbone.layer3'])"
                '  # a path per level',
            )
        if width is not None and width < 2:
            # One channel alone is nothing that a norm could work on.
            raise ConfigError('GuidanceLayer: width must be 2 or more', actual=width)
        if not reconstruction >= 0:
            raise ConfigError(
                'GuidanceLayer: reconstruction must be a number >= 0',
                actual=reconstruction,
            )
        if not is_integer(stride) or stride < 1:
            raise ConfigError(
                'GuidanceLayer: stride must be a whole number >= 1', actual=stride
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
            # Nothing trains it: it must not wait for gradients in DDP.
            encoder.requires_grad_(False)
            return
        decoder = nn.Conv2d(width, channels, 1)
        decoder.weight.data.copy_(encoder.weight.data.transpose(0, 1))
        nn.init.zeros_(decoder.bias)  # type: ignore[arg-type]
        self.decoders.append(decoder)

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor]
    ) -> AdapterOutput:
        """Lead both sides into the space."""
        ours = tuple(
            apply_to_map(side, level)
            for side, level in zip(self.student_side, student, strict=True)
        )
        teacher = tuple(level.detach() for level in teacher)
        if not self.encoders:
            return AdapterOutput(ours, teacher, {})
        losses = {}
        # First: autocast keeps a weight as it was cast first, and what is cast without
        # gradient has none later.
        if self.decoders:
            losses['reconstruction'] = self.reconstruction * self._error(teacher)
        with torch.no_grad():
            codes = tuple(
                apply_to_map(encoder, level)
                for encoder, level in zip(self.encoders, teacher, strict=True)
            )
        return AdapterOutput(ours, codes, losses)

    def _error(self, teacher: Sequence[Tensor]) -> Tensor:
        """Of the reconstruction, mean over levels."""
        errors = []
        for encoder, decoder, level in zip(self.encoders, self.decoders, teacher):
            seen = as_map(level)[:, :, :: self.stride, :: self.stride]
            errors.append(relative_error(decoder(encoder(seen)), seen))
        return torch.stack(errors).mean()


def round8(channels: float) -> int:
    """The nearest multiple of 8, at least 8."""
    return max(8, int(channels / 8 + 0.5) * 8)


def student_side(channels: int, width: int, out_channels: int) -> nn.Sequential:
    """1x1 conv, norm, ReLU, 1x1 conv."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 1, bias=False),
        group_norm(width),
        nn.ReLU(),
        nn.Conv2d(width, out_channels, 1),
    )


def relative_error(output: Tensor, target: Tensor) -> Tensor:
    """Squared error in relation to the target's square, in float32."""
    output, target = full_precision(output), full_precision(target)
    return (output - target).square().sum() / target.square().sum().clamp_min(1e-6)


def _list(specs: Sequence[LevelSpec]) -> str:
    return ', '.join(map(str, specs))
