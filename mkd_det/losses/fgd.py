"""Features, objects and background apart, and how places hang together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ShapeMismatchError
from ..functional import box_cells
from ..registry import LOSSES
from ..structures import GroundTruth
from .base import PairLoss

Reduction = Literal['mean', 'sum']


@LOSSES.register_module()
class FGD(PairLoss):
    r"""Focal and global distillation of feature maps.

    .. math:: \sum_p \left(\alpha M_p + \beta (1 - M_p)\right) S_p \, A^S_p
        \sum_c A^C_c (F^t_{cp} - F^s_{cp})^2 + \gamma \, (|A^S_t - A^S_s|
        + |A^C_t - A^C_s|) + \lambda (R(F^t) - R(F^s))^2

    Yang, Li, Jiang, Gong, Yuan, Zhao, Yuan: "Focal and Global Knowledge Distillation
    for Detectors", CVPR 2022, arXiv 2111.11837. M is 1 in boxes of the ground truth;
    S is one over the cells of the smallest box there, or of all background, so that
    objects count alike; :math:`A^S = HW \, \mathrm{softmax}(\mathrm{mean}_c |F| / T)`
    and :math:`A^C = C \, \mathrm{softmax}(\mathrm{mean}_p |F| / T)` are the teacher's
    attention; R adds context of the whole map (GcBlock, Cao et al. 2019, arXiv
    1904.11492), with layers for each side that are learned. Where widths differ, a 1x1
    convolution leads the student into the teacher's.

    The published code sums squares over channels and places, divides by images alone,
    and adds up levels: `reduction='sum'`, with its weights for RetinaNet alpha=1e-3,
    beta=gamma=5e-4, lam=5e-6 (two stages: alpha=gamma=5e-5, beta=2.5e-5, lam=5e-7). By
    default channels, places of the attention and of R, and levels are averaged, so that
    weights do not depend on sizes; the sum over objects is the method's own. Against
    the published weights attention and context then count less on large maps (P3 of a
    COCO image: a fortieth and a hundredth) and more on the smallest. The code also
    counts cells at which a box just ends, we those that it reaches into; and it scales
    boxes by their own image's size, which shifts them where a batch is padded: we by
    the batch's.

    Args:
        alpha: Weight of objects.
        beta: Weight of the background.
        gamma: Weight of the attention.
        lam: Weight of the context.
        temperature: T of the attention.
        reduction: 'mean' or 'sum', see above.
        channels: (C_s, C_t) of each level. The plan fills it in.
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student: (N, C_s, H, W) a level
        - teacher: (N, C_t, H, W) likewise
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
                'FGD: alpha, beta, gamma and lam must be >= 0, one of them and the'
                ' temperature above 0',
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
        """The three parts over all levels."""
        if len(self.aligners) != len(student) or student[0].dim() != 4 or truth is None:
            raise ShapeMismatchError(
                'FGD: needs maps of as many levels as it was told of, and boxes',
                expected=f'{len(self.aligners)} levels (N, C, H, W)',
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
        """How much each place counts, alpha and beta included: (N, 1, H, W)."""
        size = (level.shape[-2], level.shape[-1])
        scales = []
        for boxes in truth.boxes:
            rows, columns = (
                cells.to(level.dtype) for cells in box_cells(boxes, truth.size, size)
            )
            cells = rows.sum(1) * columns.sum(1)
            inside = rows[:, :, None] * columns[:, None, :]
            of_boxes = inside / cells.clamp_min(1)[:, None, None]
            # One more, for images without boxes; and the smallest box wins.
            nothing = of_boxes.new_zeros(1, *size)
            objects = torch.cat([of_boxes, nothing]).amax(0)
            empty = (objects == 0).to(level.dtype)
            background = empty / empty.sum().clamp_min(1)
            scales.append(self.alpha * objects + self.beta * background)
        return torch.stack(scales).unsqueeze(1)


def attention(level: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Of places (N, 1, H, W) and of channels (N, C, 1, 1), of mean 1 each."""
    strength = level.abs()
    places = strength.mean(1).flatten(1) / temperature
    spatial = places.softmax(1) * places.shape[1]
    channel = (strength.mean((2, 3)) / temperature).softmax(1) * level.shape[1]
    size = level.shape[-2:]
    return spatial.unflatten(1, size).unsqueeze(1), channel[:, :, None, None]


class Context(nn.Module):
    """Adds to every place what the whole map says, weighed by place (GcBlock).

    Args:
        channels: Of the map.
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
        # It begins as nothing, as in the published code.
        nn.init.zeros_(self.change[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.change[-1].bias)  # type: ignore[arg-type]

    def forward(self, level: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        weights = self.places(level).flatten(2).softmax(-1)
        context = (level.flatten(2) * weights).sum(-1)[:, :, None, None]
        return level + self.change(context)
