"""Several class losses as one, on labels and on what a teacher says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, Registry
from torch import Tensor, nn

from ..errors import ConfigError, HeadKindError, ShapeMismatchError, is_number
from ..functional import (
    effective_number_weights,
    logit_rows,
    sigmoid_focal,
    softmax_focal,
    weighted_average,
)
from ..registry import LOSSES, build_component
from ..structures import HeadOutput, Level, full_precision
from .base import PairLoss

Kind = Literal['softmax', 'sigmoid']

MEMBERS = Registry('class loss', scope='mkd_det', locations=[__name__])


class Member(nn.Module):
    """One class loss.

    Class attributes:
        kind: 'softmax' for classes that exclude each other, 'sigmoid' for
            independent ones.

    Shape:
        - logits, target: (M, K), the target probabilities
        - output: (M,), one figure a sample
    """

    kind: Kind = 'softmax'


@MEMBERS.register_module()
class CE(Member):
    """Cross entropy."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `Member`."""
        return F.cross_entropy(logits, target, reduction='none')


@MEMBERS.register_module()
class BalancedCE(Member):
    """Cross entropy, classes weighted by their effective number of samples.

    Cui et al.: "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019,
    arXiv 1901.05555.

    Args:
        counts: Samples of each class in the training data; for heads whose last class
            is the background, its samples too.
        beta: See `functional.effective_number_weights`.
    """

    def __init__(self, counts: Sequence[int], beta: float = 0.999) -> None:
        super().__init__()
        listed = isinstance(counts, (list, tuple)) and len(counts)
        if not listed or not all(is_number(n) and n > 0 for n in counts):
            raise ConfigError(
                'BalancedCE: every class must have samples',
                expected='counts above 0, one for each class, in a list',
                actual=counts,
                fix='leave classes without samples out of the data.'
                ' `TorchvisionDataset(...).counts` are those of a data set',
            )
        if not 0 <= beta < 1:
            raise ConfigError('BalancedCE: beta must be from 0 to below 1', actual=beta)
        weights = effective_number_weights(torch.tensor(counts), beta)
        self.register_buffer('weights', weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `Member`."""
        weights: Any = self.weights
        if len(weights) != logits.shape[-1]:
            raise ConfigError(
                'BalancedCE: as many counts as classes',
                expected=f'{logits.shape[-1]} counts',
                actual=f'{len(weights)} counts',
            )
        return F.cross_entropy(logits, target * weights, reduction='none')


@MEMBERS.register_module()
class BinaryCE(Member):
    """One class against the rest, each by itself, summed over the classes."""

    kind: Kind = 'sigmoid'

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `Member`."""
        return sigmoid_focal(logits, target, 0.0, None).sum(-1)


@MEMBERS.register_module()
class Focal(Member):
    """What is hard counts more.

    Lin et al.: "Focal Loss for Dense Object Detection", ICCV 2017, arXiv 1708.02002.

    Args:
        gamma: How much more: 0, or at least 1.
        alpha: Weight of positives, for the sigmoid form; None for 1 on both sides.
        use_sigmoid: Independent classes (the paper's form), or a softmax.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | None = 0.25,
        use_sigmoid: bool = False,
    ) -> None:
        super().__init__()
        if gamma != 0 and not gamma >= 1:
            # Between, the gradient of what is certain has no limit.
            raise ConfigError('Focal: gamma must be 0 or at least 1', actual=gamma)
        if alpha is not None and not 0 <= alpha <= 1:
            raise ConfigError('Focal: alpha must be from 0 to 1, or None', actual=alpha)
        self.gamma, self.alpha = gamma, alpha
        self.kind = 'sigmoid' if use_sigmoid else 'softmax'

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `Member`."""
        if self.kind == 'softmax':
            return softmax_focal(logits, target, self.gamma)
        return sigmoid_focal(logits, target, self.gamma, self.alpha).sum(-1)


@LOSSES.register_module()
@MODELS.register_module()
class LossAggregation(PairLoss):
    r"""A weighted sum of class losses, for hard labels and for a teacher's.

    .. math:: \sum_i w_i L_i, \quad \text{or, with learned weights,} \quad
        \sum_i e^{-s_i} L_i + \frac{s_i}{2}

    After Doan, Nguyen, IJ-AI 13(3), 2024, 10.11591/ijai.v13.i3.pp3240-3249, of which
    the abstract names cross entropy, balance cross entropy and focal loss, on labels
    and in distillation. Which "balance cross entropy" is meant it does not say:
    `BalancedCE` weighs classes, `BinaryCE` is one against the rest. Learned weights:
    Kendall et al.: "Multi-Task Learning Using Uncertainty", CVPR 2018, arXiv
    1705.07115.

    One module in three places:

    - a classifier's loss: `loss(logits, target)`, a mean over samples;
    - `loss_cls` of mmdet's dense heads: `loss(scores, labels, weight, avg_factor=n)`;
      labels may be (labels, qualities), as GFL's, and the label K is the background.
      Heads call it for each level, and :math:`s_i / 2` counts each time: learned
      weights grow with the number of levels, in equal proportions;
    - a term: the teacher's probabilities, at temperature tau, are the target, times
      tau^2. Dense heads are summed over places and divided by the teacher's confidence,
      as in `SoftOutputKD`. Of equal sides remains what the teacher is unsure of: these
      are cross entropies.

    Args:
        losses: Members, as dict(type='CE'), 'BalancedCE', 'BinaryCE' or 'Focal' with
            their arguments. None: CE, or BinaryCE for independent classes.
        weights: One for each, or 'learned'. Default: all 1.
        tau: Temperature, for terms.
        use_sigmoid: Whether classes are independent, for mmdet's heads, which read it
            in the config. Must be what the members are.
        loss_weight: Factor, as mmdet's losses have it.
        activation: What the logits of the head are for: 'sigmoid' (independent classes)
            or 'softmax'. The plan fills it in for heads.
        **base: `weight` and `schedule` of a term, see `PairLoss`.

    Shape:
        - logits: (M, K); target (M,) or (M, K)
        - terms: one `HeadOutput` of (N, P, C) scores, or logits (N, K)
        - output: ()
    """

    reads: ClassVar[str] = 'outputs'
    weighs_samples: ClassVar[bool] = True

    def __init__(
        self,
        losses: Sequence[dict] | None = None,
        weights: Sequence[float] | Literal['learned'] | None = None,
        tau: float = 1.0,
        use_sigmoid: bool | None = None,
        loss_weight: float = 1.0,
        activation: Kind | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if not tau > 0:
            raise ConfigError('LossAggregation: tau must be above 0', actual=tau)
        if losses is None:
            alone = 'BinaryCE' if use_sigmoid or activation == 'sigmoid' else 'CE'
            losses = [dict(type=alone)]
        self.members = _members(losses)
        self.weights = _weights(weights, len(self.members))
        self.log_variances: nn.Parameter | None = None
        if weights == 'learned':
            self.log_variances = nn.Parameter(torch.zeros(len(self.members)))
        self.tau, self.loss_weight = tau, loss_weight
        self._check_kind(use_sigmoid, activation)
        self.use_sigmoid = all(m.kind == 'sigmoid' for m in self.members)
        self._told = use_sigmoid is not None

    def _check_kind(self, use_sigmoid: bool | None, activation: Kind | None) -> None:
        wanted = {activation} if activation else set()
        if use_sigmoid is not None:
            wanted.add('sigmoid' if use_sigmoid else 'softmax')
        for member in self.members:
            if wanted - {member.kind}:
                raise HeadKindError(
                    f'LossAggregation: {type(member).__name__} is a {member.kind} loss',
                    expected=' and '.join(sorted(wanted)),
                    actual=member.kind,
                    fix="dict(type='BinaryCE'), dict(type='Focal', use_sigmoid=True)"
                    " for independent classes;\ndict(type='CE'), dict(type='Focal')"
                    ' for a softmax',
                )

    def needs_boxes(self, student: Any, teacher: Any) -> bool:
        """Classes alone."""
        return False

    def forward(self, student: Any, teacher: Any, *args: Any, **kwargs: Any) -> Any:
        """A loss of logits and targets, or a term of levels; see the class."""
        if isinstance(student, Tensor):
            return self.on_targets(student, teacher, *args, **kwargs)
        return super().forward(student, teacher, *args, **kwargs)

    # -- on labels -----------------------------------------------------------

    def on_targets(
        self,
        logits: Tensor,
        target: Tensor | tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss against labels or given probabilities.

        Args:
            logits: (M, K).
            target: Labels (M,), probabilities (M, K), or (labels, qualities).
            weight: Of each sample, (M,) or (M, 1). Optional.
            avg_factor: What the sum is divided by; None for the mean.
            reduction_override: 'none', 'mean' or 'sum', as in mmdet.
        """
        if avg_factor is not None and self.use_sigmoid and not self._told:
            # mmdet's heads look into the config, and would add a background class.
            raise ConfigError(
                'LossAggregation: the head takes its classes for those of a softmax,'
                ' the losses for independent',
                fix='loss_cls=dict(use_sigmoid=True, ...)',
            )
        with torch.autocast(logits.device.type, enabled=False):
            logits = full_precision(logits)
            probabilities = as_probabilities(target, logits)
            if any(member.kind == 'softmax' for member in self.members):
                _check_distribution(probabilities)
            targets = dict(softmax=probabilities, sigmoid=probabilities)
            loss = self._sum(logits, targets)
            if weight is not None:
                loss = loss * weight.reshape(-1)
            if reduction_override == 'sum':
                loss = loss.sum()
            elif reduction_override != 'none':
                loss = loss.mean() if avg_factor is None else loss.sum() / avg_factor
            return self.loss_weight * (loss + self._uncertainty())

    def _sum(self, logits: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the members, each with the target of its kind: (M,)."""
        total = logits.new_zeros(len(logits))
        for index, member in enumerate(self.members):
            kind: Any = member.kind
            weight: float | Tensor = self.weights[index]
            if self.log_variances is not None:
                weight = torch.exp(-self.log_variances[index])
            total = total + weight * member(logits, targets[kind])
        return total

    def _uncertainty(self) -> Tensor | float:
        """What keeps learned weights from 0. Once, however many samples there are."""
        return 0.0 if self.log_variances is None else self.log_variances.sum() / 2

    # -- on a teacher's ------------------------------------------------------

    def over_levels(
        self,
        student: list[Level],
        teacher: list[Level],
        mask: Sequence[Tensor] | None,
    ) -> Tensor | dict[str, Tensor]:
        """The term on a dense head, or the mean over levels of logits."""
        s, t = student[0], teacher[0]
        if not isinstance(s, HeadOutput) or not isinstance(t, HeadOutput):
            mean: Any = super().over_levels(student, teacher, mask)
            return self.loss_weight * (mean + self._uncertainty())
        _same(s.scores, t.scores)
        rows_s, rows_t = s.scores.flatten(0, 1), t.scores.flatten(0, 1)
        loss = self._soft(rows_s, rows_t)
        if self.use_sigmoid:
            sure = rows_t.sigmoid().amax(-1)
        else:
            sure = rows_t.softmax(-1)[:, :-1].amax(-1)
        if mask is not None:
            weights = mask[0].reshape(-1)
            loss, sure = loss * weights, sure * weights
        loss = loss.sum() / sure.sum().clamp_min(len(s.scores))
        return self.loss_weight * (loss + self._uncertainty())

    def pair(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """The term on logits (N, K), (N, L, K) or (N, K, H, W)."""
        _same(student, teacher)
        weights = None if mask is None else mask.reshape(-1)
        return weighted_average(
            self._soft(logit_rows(student), logit_rows(teacher)), weights
        )

    def _soft(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of each row against the teacher's probabilities."""
        soft = teacher / self.tau
        targets = dict(softmax=soft.softmax(-1), sigmoid=soft.sigmoid())
        return self._sum(student / self.tau, targets) * self.tau**2


def _members(losses: Any) -> nn.ModuleList:
    if not isinstance(losses, (list, tuple)) or not losses:
        raise ConfigError(
            'LossAggregation: losses must be a list of at least one',
            actual=losses,
            fix="losses=[dict(type='CE'), dict(type='Focal', gamma=2.0)]",
        )
    built = []
    for cfg in losses:
        if not isinstance(cfg, dict):
            raise ConfigError(
                'LossAggregation: a loss is a dict with `type`',
                actual=cfg,
                fix="dict(type='CE')",
            )
        built.append(build_component(MEMBERS, cfg, 'LossAggregation'))
    return nn.ModuleList(built)


def _weights(weights: Any, count: int) -> list[float]:
    if weights is None or weights == 'learned':
        return [1.0] * count
    listed = isinstance(weights, (list, tuple)) and len(weights) == count
    if not listed or not all(is_number(w) and w >= 0 for w in weights):
        raise ConfigError(
            'LossAggregation: as many weights as losses, none below 0',
            expected=f"{count} numbers, or 'learned'",
            actual=weights,
        )
    return [float(weight) for weight in weights]


def as_probabilities(target: Tensor | tuple[Tensor, Tensor], logits: Tensor) -> Tensor:
    """A target of any kind as (M, K): labels become 1 in one place, the label K
    (mmdet's background) nothing, (labels, qualities) the quality in one place.
    """
    if isinstance(target, (tuple, list)):
        labels, quality = target
        return as_probabilities(labels, logits) * quality[:, None].to(logits)
    if target.dim() == logits.dim():
        _same(logits, target)
        return full_precision(target).to(logits)
    places, classes = logits.shape
    one_hot = logits.new_zeros(places, classes + 1)
    return one_hot.scatter_(1, target[:, None].long(), 1.0)[:, :classes]


def _check_distribution(target: Tensor) -> None:
    # Written so that NaN is wrong, too.
    right = ((target.sum(-1) - 1).abs() <= 1e-3) & (target >= 0).all(-1)
    if not right.all():
        first = target[~right][0]
        raise ConfigError(
            'LossAggregation: soft targets must be probabilities that sum to 1; labels'
            ' must be of a class',
            actual=f'{int((~right).sum())} of {len(target)} samples; the first sums to'
            f' {first.sum().item():.4g}, its least is {first.min().item():.4g}',
            fix="dict(type='BinaryCE') or dict(type='Focal', use_sigmoid=True) takes"
            ' targets of independent classes',
        )


def _same(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ShapeMismatchError(
            'LossAggregation: logits and targets differ in shape',
            expected=f'{tuple(teacher.shape)}',
            actual=f'{tuple(student.shape)}',
        )
