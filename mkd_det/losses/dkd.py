"""Soft outputs in two parts: the label, and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeMismatchError
from ..functional import decoupled_kl, rows, weighted_rows
from ..registry import LOSSES
from ..structures import GroundTruth
from .base import PairLoss


@LOSSES.register_module()
class DKD(PairLoss):
    r"""How sure the teacher is of the label, and what else it could be, apart.

    .. math:: \alpha \, \mathrm{TCKD} + \beta \, \mathrm{NCKD}

    see `functional.decoupled_kl`. Zhao, Cui, Song, Qiu, Liang: "Decoupled Knowledge
    Distillation", CVPR 2022, arXiv 2203.08679: in plain soft outputs, what the teacher
    says of the other classes counts least where it is sure of the label. The paper's
    weights: beta 2 on CIFAR from ResNet-56 to ResNet-20 and 8 where the teacher is far
    better, at tau 4; 0.5 at tau 1 on ImageNet. Its code warms the loss up over 20
    epochs: `schedule=dict(warmup_iters=...)`, in iterations. For detectors it takes the
    classes of proposals, of which we have no probe.

    Args:
        alpha: Weight of the label against all else.
        beta: Weight of what is said of the other classes.
        tau: Temperature.
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student, teacher: logits (N, K), K at least 2; of (N, K, H, W) or (N, L, K)
          all places have their image's label
        - mask: as many entries as rows
        - output: dict(target=(), rest=())
    """

    demands: ClassVar[frozenset[str]] = frozenset({'same_channels', 'same_spatial'})
    truth: ClassVar[str] = 'labels'
    weighs_samples: ClassVar[bool] = True

    def __init__(
        self, alpha: float = 1.0, beta: float = 2.0, tau: float = 4.0, **base: Any
    ) -> None:
        super().__init__(**base)
        if not (alpha >= 0 and beta >= 0 and alpha + beta > 0 and tau > 0):
            raise ConfigError(
                'DKD: alpha and beta must be >= 0, one of them and tau above 0',
                actual=(alpha, beta, tau),
                hint='alpha=1.0, beta=2.0, tau=4.0',
            )
        self.alpha, self.beta, self.tau = alpha, beta, tau

    def over_levels(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        mask: Sequence[Tensor] | None,
        truth: GroundTruth | None = None,
    ) -> dict[str, Tensor]:
        """Both parts, mean over levels."""
        if truth is None or student[0].shape[1] < 2:
            raise ShapeMismatchError(
                'DKD: needs logits of two classes or more, and labels',
                actual=tuple(student[0].shape),
            )
        labels = torch.stack(list(truth.labels))
        masks: Sequence[Tensor | None] = mask or [None] * len(student)
        parts = [
            self._parts(s, t, labels, m)
            for s, t, m in zip(student, teacher, masks, strict=True)
        ]
        target, rest = (torch.stack(part).mean() for part in zip(*parts))
        return {'target': self.alpha * target, 'rest': self.beta * rest}

    def _parts(
        self, student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, ...]:
        s, t = (rows(level) for level in (student, teacher))
        labels = labels.repeat_interleave(len(s) // len(labels))
        weights = None if mask is None else mask.reshape(-1)
        parts = decoupled_kl(s, t, labels, self.tau)
        return tuple(weighted_rows(part, weights) for part in parts)
