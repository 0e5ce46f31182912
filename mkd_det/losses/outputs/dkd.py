"""Decoupled knowledge distillation (DKD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import ConfigError, ShapeMismatchError
from ...functional import decoupled_kl, logit_rows, weighted_average
from ...registry import LOSSES
from ...structures import GroundTruth
from ..base import PairLoss


@LOSSES.register_module()
class DKD(PairLoss):
    r"""Weights the label's probability and the other classes separately (DKD).

    .. math:: \alpha \, \mathrm{TCKD} + \beta \, \mathrm{NCKD}

    `functional.decoupled_kl` defines both parts. Zhao, Cui, Song, Qiu, Liang:
    "Decoupled Knowledge Distillation", CVPR 2022, arXiv 2203.08679. The usual KL
    divergence suppresses the other classes where the teacher is confident of the
    label. The paper's weights: at tau 4 on CIFAR, beta 2 from ResNet-56 to ResNet-20
    and up to 8 for much stronger teachers; at tau 1 on ImageNet, beta 0.5. The
    published code warms the loss up over 20 epochs:
    `schedule=dict(warmup_iters=...)`, in iterations. `ProposalDKD` is the form for
    two-stage detectors.

    Args:
        alpha: Weight of TCKD: the label's probability against the rest.
        beta: Weight of NCKD: the distribution over the other classes.
        tau: Temperature.
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student, teacher: logits (N, K) with K >= 2, (N, K, H, W) or (N, L, K); all
          positions have the label of their image
        - mask: one weight per row of logits
        - output: dict(target=(), rest=()), those whose weight is not 0

    Rows with the label -1 are left out.
    """

    demands: ClassVar[frozenset[str]] = frozenset({'same_channels', 'same_spatial'})
    of_classes: ClassVar[bool] = True
    truth: ClassVar[str] = 'labels'
    weighs_samples: ClassVar[bool] = True
    instead: ClassVar[Mapping[str, str]] = {
        'rest': 'beta=0, as two classes leave only one besides the label'
    }

    def __init__(
        self, alpha: float = 1.0, beta: float = 2.0, tau: float = 4.0, **base: Any
    ) -> None:
        super().__init__(**base)
        if not (alpha >= 0 and beta >= 0 and alpha + beta > 0 and tau > 0):
            raise ConfigError(
                'DKD: alpha and beta must be >= 0 and not both 0, tau > 0',
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
        """Return both parts, mean over levels."""
        if truth is None:
            raise ShapeMismatchError(
                'DKD: the labels of the images are missing',
                fix="dict(type='ProposalDKD', ...) for two-stage detectors",
            )
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
                f'{type(self).__name__}: the logits must have at least two classes',
                actual=tuple(student[0].shape),
            )
        masks: Sequence[Tensor | None] = mask or [None] * len(student)
        parts = [
            self._parts(s, t, labels, m)
            for s, t, m in zip(student, teacher, masks, strict=True)
        ]
        target, rest = (torch.stack(part).mean() for part in zip(*parts))
        weighed = {'target': (self.alpha, target), 'rest': (self.beta, rest)}
        return {
            name: factor * part for name, (factor, part) in weighed.items() if factor
        }

    def _parts(
        self, student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, ...]:
        s, t = (logit_rows(level) for level in (student, teacher))
        labels = labels.repeat_interleave(len(s) // max(len(labels), 1))
        weights = (labels >= 0).to(s)
        if mask is not None:
            weights = weights * mask.reshape(-1)
        parts = decoupled_kl(s, t, labels.clamp_min(0), self.tau)
        return tuple(weighted_average(part, weights) for part in parts)


@LOSSES.register_module()
class ProposalDKD(DKD):
    r"""Applies `DKD` to the proposals of a two-stage detector.

    .. math:: \frac{1}{R} \sum_r \alpha \, \mathrm{TCKD}_r + \beta \, \mathrm{NCKD}_r

    The background is one of the classes. Zhao et al., CVPR 2022, arXiv 2203.08679; the
    defaults are those of the published code for Faster R-CNN, which also weights all
    proposals equally. `labels` are the targets of the student's own classification
    loss: `taps=dict(labels='roi_head.bbox_head.loss_cls:in1')`.

    Args:
        alpha: Weight of TCKD, see `DKD`.
        beta: Weight of NCKD, see `DKD`.
        tau: Temperature.
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student: logits (R, K + 1)
        - teacher: logits (R, K + 1), of `ProposalHead`
        - labels: (R,)
        - output: dict(target=(), rest=()), those whose weight is not 0
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
        """Return both parts, mean over proposals."""
        shapes = [tuple(x.shape) for x in (*student, *teacher, *labels)]
        if len(shapes) != 3 or shapes[0] != shapes[1] or shapes[2] != shapes[0][:1]:
            raise ShapeMismatchError(
                'ProposalDKD: needs one level of logits per side, and their labels',
                expected='(R, K + 1) twice, (R,)',
                actual=shapes,
                fix="student='classes', teacher='proposals.teacher', labels='labels',"
                " with taps=dict(classes='roi_head.bbox_head.fc_cls',"
                " labels='roi_head.bbox_head.loss_cls:in1')",
            )
        return self._of_labels(student, teacher, labels[0])
