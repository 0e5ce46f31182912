"""Soft outputs in two parts: the label, and the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeMismatchError
from ..functional import decoupled_kl, logit_rows, weighted_average
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
    epochs: `schedule=dict(warmup_iters=...)`, in iterations. For two-stage detectors
    see `ProposalDKD`.

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
                fix='alpha=1.0, beta=2.0, tau=4.0',
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
        if truth is None:
            raise ShapeMismatchError('DKD: needs the labels of the images')
        return self._of_labels(student, teacher, torch.stack(list(truth.labels)), mask)

    def _of_labels(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        labels: Tensor,
        mask: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        if student[0].shape[1] < 2:
            raise ShapeMismatchError(
                f'{type(self).__name__}: needs logits of two classes or more',
                actual=tuple(student[0].shape),
            )
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
        s, t = (logit_rows(level) for level in (student, teacher))
        labels = labels.repeat_interleave(len(s) // max(len(labels), 1))
        weights = None if mask is None else mask.reshape(-1)
        parts = decoupled_kl(s, t, labels, self.tau)
        return tuple(weighted_average(part, weights) for part in parts)


@LOSSES.register_module()
class ProposalDKD(DKD):
    r"""`DKD` on the proposals of a two-stage detector, background among the classes.

    .. math:: \frac{1}{R} \sum_r \alpha \, \mathrm{TCKD}_r + \beta \, \mathrm{NCKD}_r

    Zhao et al., CVPR 2022, arXiv 2203.08679, whose code has these defaults for Faster
    R-CNN, and counts all proposals alike. `labels` are those that the student's own
    loss gets: `taps=dict(labels='roi_head.bbox_head.loss_cls:in1')`.

    Args:
        alpha, beta, tau: As in `DKD`.
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student: logits (R, K + 1)
        - teacher: logits (R, K + 1), of `ProposalHead`
        - labels: (R,)
        - output: dict(target=(), rest=())
    """

    truth: ClassVar[str] = ''
    also: ClassVar[Mapping[str, str]] = {'labels': 'student'}
    weighs_samples: ClassVar[bool] = False

    def __init__(
        self, alpha: float = 1.0, beta: float = 0.25, tau: float = 1.0, **base: Any
    ) -> None:
        super().__init__(alpha, beta, tau, **base)

    def over_levels(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        mask: Sequence[Tensor] | None,
        truth: GroundTruth | None = None,
        labels: Sequence[Tensor] = (),
    ) -> dict[str, Tensor]:
        """Both parts, mean over proposals."""
        shapes = [tuple(x.shape) for x in (*student, *teacher, *labels)]
        if len(shapes) != 3 or shapes[0] != shapes[1] or shapes[2] != shapes[0][:1]:
            raise ShapeMismatchError(
                'ProposalDKD: needs one level of logits from each side, and labels',
                expected='(R, K + 1) twice, (R,)',
                actual=shapes,
                fix="student='classes', teacher='proposals.teacher', labels='labels',"
                " with taps=dict(classes='roi_head.bbox_head.fc_cls',"
                " labels='roi_head.bbox_head.loss_cls:in1')",
            )
        return self._of_labels(student, teacher, labels[0])
