"""Focal and global distillation (FGD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from ...errors import ConfigError, ShapeMismatchError
from ...functional import box_cells
from ...registry import LOSSES
from ...structures import GroundTruth
from ..base import PairLoss

Reduction = Literal['mean', 'sum']


@LOSSES.register_module()
class FGD(PairLoss):
    r"""Compares features of objects, background and context separately (FGD).

    .. math:: \sum_p \left(\alpha M_p + \beta (1 - M_p)\right) S_p \, A^S_p
        \sum_c A^C_c (F^t_{cp} - F^s_{cp})^2 + \gamma \, (|A^S_t - A^S_s|
        + |A^C_t - A^C_s|) + \lambda (R(F^t) - R(F^s))^2

    Yang, Li, Jiang, Gong, Yuan, Zhao, Yuan: "Focal and Global Knowledge Distillation
    for Detectors", CVPR 2022, arXiv 2111.11837. M is 1 inside ground-truth boxes. S is
    1 / (number of cells) of the smallest box at a position, or of the whole
    background, so that objects of all sizes have equal weight.
    :math:`A^S = HW \, \mathrm{softmax}(\mathrm{mean}_c |F| / T)` and
    :math:`A^C = C \, \mathrm{softmax}(\mathrm{mean}_p |F| / T)` are the spatial and
    channel attention. R adds global context (GcBlock: Cao et al. 2019, arXiv
    1904.11492) by trained layers, separate for student and teacher. Where widths
    differ, a 1x1 convolution projects the student to the teacher's width.

    Differences from the published code:

    - The code sums squares over channels and positions, divides by the number of
      images only, and sums over levels. `reduction='sum'` does the same; the code's
      weights are then, for RetinaNet, alpha=1e-3, beta=gamma=5e-4, lam=5e-6 (two-stage
      detectors: alpha=gamma=5e-5, beta=2.5e-5, lam=5e-7). The default
      `reduction='mean'` averages over channels, over the positions of attention and
      context, and over levels, so that weights do not depend on sizes; the sum over
      objects is kept. Relative to the published weights, attention and context then
      have less weight on large maps (1/40 and 1/100 on P3 of a COCO image) and more on
      the smallest.
    - The code includes cells that a box only touches at its end; here a box covers the
      cells that it overlaps.
    - The code scales boxes by the size of their own image, which shifts them in padded
      batches; here boxes are scaled by the size of the batch.

    Args:
        alpha: Weight of objects.
        beta: Weight of the background.
        gamma: Weight of the attention.
        lam: Weight of the global context.
        temperature: Temperature T of the attention.
        reduction: 'mean' or 'sum', see above.
        channels: (C_s, C_t) of each level. The plan fills it in.
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student: per level (N, C_s, H, W)
        - teacher: per level (N, C_t, H, W)
        - output: dict(focal=(), attention=(), context=())
    """

    demands: ClassVar[frozenset[str]] = frozenset({'same_spatial'})
    truth: ClassVar[str] = 'boxes'

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 0.5,
        gamma: float = 1.0,
        lam: float = 1.0,
        temperature: float = 0.5,
        reduction: Reduction = 'mean',
        channels: Sequence[Sequence[int]] = (),
        **base: Any,
    ) -> None:
        super().__init__(**base)
        weights = (alpha, beta, gamma, lam)
        if not (min(weights) >= 0 and max(weights) > 0 and temperature > 0):
            raise ConfigError(
                'FGD: alpha, beta, gamma and lam must be >= 0 and not all 0,'
                ' temperature > 0',
                actual=(*weights, temperature),
            )
        if reduction not in get_args(Reduction):
            raise ConfigError(
                'FGD: unknown reduction',
                actual=reduction,
                available=get_args(Reduction),
            )
        self.alpha, self.beta, self.gamma, self.lam = weights
        self.temperature, self.reduction = temperature, reduction
        self.aligners = nn.ModuleList(
            nn.Identity() if s == t else nn.Conv2d(s, t, 1) for s, t in channels
        )
        self.contexts = nn.ModuleList(
            nn.ModuleList([Context(t), Context(t)]) for _, t in channels
        )

    def over_levels(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        mask: Sequence[Tensor] | None,
        truth: GroundTruth | None = None,
    ) -> dict[str, Tensor]:
        """Return the three parts over all levels."""
        if len(self.aligners) != len(student) or student[0].dim() != 4 or truth is None:
            raise ShapeMismatchError(
                'FGD: needs feature maps and ground-truth boxes',
                expected=f'{len(self.aligners)} levels of shape (N, C, H, W)',
                actual=f'{len(student)} levels, the first {tuple(student[0].shape)}',
                fix="taps=dict(fpn='neck')",
            )
        found = [
            self._level(index, s, t, truth)
            for index, (s, t) in enumerate(zip(student, teacher, strict=True))
        ]
        names = ('focal', 'attention', 'context')
        totals = [torch.stack(part).sum() for part in zip(*found)]
        levels = len(found) if self.reduction == 'mean' else 1
        return {name: total / levels for name, total in zip(names, totals)}

    def _level(
        self, index: int, student: Tensor, teacher: Tensor, truth: GroundTruth
    ) -> tuple[Tensor, Tensor, Tensor]:
        student = self.aligners[index](student)
        (n, c), places = teacher.shape[:2], teacher.shape[-2:].numel()
        ours, theirs = (attention(x, self.temperature) for x in (student, teacher))
        squares = (theirs[1] * (teacher - student).square()).sum(1, keepdim=True)
        focal = (self._scales(truth, teacher) * theirs[0] * squares).sum() / n
        spatial, channel = (
            (t - s).abs().sum() / n for s, t in zip(ours, theirs, strict=True)
        )
        of_s, of_t = self.contexts[index].children()
        context = (of_t(teacher) - of_s(student)).square().sum() / n
        if self.reduction == 'mean':
            focal, context = focal / c, context / (c * places)
            spatial, channel = spatial / places, channel / c
        return focal, self.gamma * (spatial + channel), self.lam * context

    def _scales(self, truth: GroundTruth, level: Tensor) -> Tensor:
        """Return the weight of each position, with alpha and beta: (N, 1, H, W)."""
        size = (level.shape[-2], level.shape[-1])
        scales = []
        for boxes in truth.boxes:
            rows, columns = (
                cells.to(level.dtype) for cells in box_cells(boxes, truth.size, size)
            )
            cells = rows.sum(1) * columns.sum(1)
            inside = rows[:, :, None] * columns[:, None, :]
            of_boxes = inside / cells.clamp_min(1)[:, None, None]
            # A row of zeros for images without boxes. The smallest box wins.
            nothing = of_boxes.new_zeros(1, *size)
            objects = torch.cat([of_boxes, nothing]).amax(0)
            empty = (objects == 0).to(level.dtype)
            background = empty / empty.sum().clamp_min(1)
            scales.append(self.alpha * objects + self.beta * background)
        return torch.stack(scales).unsqueeze(1)


def attention(level: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return spatial (N, 1, H, W) and channel (N, C, 1, 1) attention, mean 1 each."""
    strength = level.abs()
    places = strength.mean(1).flatten(1) / temperature
    spatial = places.softmax(1) * places.shape[1]
    channel = (strength.mean((2, 3)) / temperature).softmax(1) * level.shape[1]
    size = level.shape[-2:]
    return spatial.unflatten(1, size).unsqueeze(1), channel[:, :, None, None]


class Context(nn.Module):
    """Adds a learned global context to every position of a map (GcBlock).

    Args:
        channels: Channels of the map.

    Shape:
        - input, output: (N, C, H, W)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.places = nn.Conv2d(channels, 1, 1)
        self.change = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.LayerNorm([hidden, 1, 1]),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
        )
        # Starts as the identity, as in the published code.
        nn.init.zeros_(self.change[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.change[-1].bias)  # type: ignore[arg-type]

    def forward(self, level: Tensor) -> Tensor:
        """Return the map with its context added."""
        weights = self.places(level).flatten(2).softmax(-1)
        context = (level.flatten(2) * weights).sum(-1)[:, :, None, None]
        return level + self.change(context)
