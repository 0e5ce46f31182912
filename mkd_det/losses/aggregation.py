"""Several class losses as one, on labels and on what a teacher says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import ConfigError, HeadKindError, ShapeMismatchError, check_keys, nearest
from ..functional import (
    effective_number_weights,
    sigmoid_focal,
    soft_cross_entropy,
    softmax_focal,
)
from ..registry import LOSSES
from ..structures import DenseOutput, Level, full_precision
from .base import PairLoss

Kind = Literal['softmax', 'sigmoid']


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


class CE(Member):
    """Cross entropy."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `Member`."""
        return soft_cross_entropy(logits, target)


class BalancedCE(Member):
    """Cross entropy, classes weighted by their effective number of samples.

    Cui et al.: "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019,
    arXiv 1901.05555.

    Args:
        counts: Samples of each class in the training data.
        beta: See `functional.effective_number_weights`.
    """

    def __init__(self, counts: Sequence[int], beta: float = 0.999) -> None:
        super().__init__()
        if not counts or not all(count > 0 for count in counts):
            raise ConfigError(
                'BalancedCE: every class must have samples',
                expected='counts above 0, one for each class',
                actual=list(counts),
                hint='leave classes without samples out of the data',
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
        return soft_cross_entropy(logits, target * weights)


class BinaryCE(Member):
    """One class against the rest, each by itself, summed over the classes."""

    kind: Kind = 'sigmoid'

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `Member`."""
        return sigmoid_focal(logits, target, 0.0, None).sum(-1)


class Focal(Member):
    """What is hard counts more.

    Lin et al.: "Focal Loss for Dense Object Detection", ICCV 2017, arXiv 1708.02002.

    Args:
        gamma: How much more.
        alpha: Weight of positives, for the sigmoid form.
        use_sigmoid: Independent classes (the paper's form), or a softmax.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | None = 0.25,
        use_sigmoid: bool = False,
    ) -> None:
        super().__init__()
        if not gamma >= 0:
            raise ConfigError('Focal: gamma must be a number >= 0', actual=gamma)
        self.gamma, self.alpha = gamma, alpha
        self.kind = 'sigmoid' if use_sigmoid else 'softmax'

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `Member`."""
        if self.kind == 'softmax':
            return softmax_focal(logits, target, self.gamma)
        return sigmoid_focal(logits, target, self.gamma, self.alpha).sum(-1)


MEMBERS: dict[str, type[Member]] = {
    cls.__name__: cls for cls in (CE, BalancedCE, BinaryCE, Focal)
}


@LOSSES.register_module()
@MODELS.register_module()
class LossAggregation(PairLoss):
    r"""A weighted sum of class losses, for hard labels and for a teacher's.

    .. math:: \sum_i w_i L_i, \quad \text{or, with learned weights,} \quad
        \sum_i e^{-s_i} L_i + \frac{s_i}{2}

    After Doan, Nguyen, IJ-AI 13(3), 2024, 10.11591/ijai.v13.i3.pp3240-3249, of which
    the abstract names cross entropy, balanced cross entropy and focal loss, on labels
    and in distillation. Which "balance
    cross entropy" is meant it does not say: `BalancedCE` weighs classes, `BinaryCE` is
    one against the rest. Learned weights: Kendall et al.: "Multi-Task Learning Using
    Uncertainty", CVPR 2018, arXiv 1705.07115.

    One module in three places:

    - a classifier's loss: `loss(logits, target)`, a mean over samples;
    - `loss_cls` of mmdet's dense heads: `loss(scores, labels, weight, avg_factor=n)`;
      labels may be (labels, qualities), as GFL's, and the label K is the background;
    - a term: the teacher's probabilities, at temperature tau, are the target, times
      tau^2. Dense heads are summed over places and divided by the teacher's confidence,
      as in `SoftOutputKD`.

    Args:
        losses: Members, as dict(type='CE'), 'BalancedCE', 'BinaryCE' or 'Focal' with
            their arguments.
        weights: One for each, or 'learned'. Default: all 1.
        tau: Temperature, for terms.
        use_sigmoid: For mmdet's heads, which read it in the config: whether classes
            are independent. Must be what the members are.
        loss_weight: Factor, as mmdet's losses have it.
        kind: What the head is. The plan fills it in where it can be read.
        **base: `weight` and `schedule` of a term, see `PairLoss`.

    Shape:
        - logits: (M, K); target (M,) or (M, K)
        - terms: one `DenseOutput` of (N, P, C) scores, or logits (N, K)
        - output: ()
    """

    reads: ClassVar[str] = 'outputs'

    def __init__(
        self,
        losses: Sequence[dict] = (dict(type='CE'),),
        weights: Sequence[float] | Literal['learned'] | None = None,
        tau: float = 1.0,
        use_sigmoid: bool | None = None,
        loss_weight: float = 1.0,
        kind: Kind | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if not tau > 0:
            raise ConfigError('LossAggregation: tau must be above 0', actual=tau)
        self.members = nn.ModuleList(_member(cfg) for cfg in losses)
        count = len(self.members)
        self.log_variances: nn.Parameter | None = None
        if weights == 'learned':
            self.log_variances = nn.Parameter(torch.zeros(count))
            weights = None
        self.weights = [1.0] * count if weights is None else [float(w) for w in weights]
        if not count or len(self.weights) != count or min(self.weights) < 0:
            raise ConfigError(
                'LossAggregation: as many weights as losses, none below 0',
                expected=f'{count} weights, and at least one loss',
                actual=self.weights,
            )
        self.tau, self.loss_weight = tau, loss_weight
        self._check_kind(use_sigmoid, kind)
        # mmdet's heads ask whether the background is a class of its own.
        self.use_sigmoid = all(m.kind == 'sigmoid' for m in self.members)

    def _check_kind(self, use_sigmoid: bool | None, kind: Kind | None) -> None:
        wanted = {kind} if kind else set()
        if use_sigmoid is not None:
            wanted.add('sigmoid' if use_sigmoid else 'softmax')
        for member in self.members:
            if wanted - {member.kind}:
                raise HeadKindError(
                    f'LossAggregation: {type(member).__name__} is a {member.kind} loss',
                    expected=' and '.join(sorted(wanted)),
                    actual=member.kind,
                    hint="dict(type='BinaryCE'), dict(type='Focal', use_sigmoid=True)"
                    " for independent classes; dict(type='CE'), dict(type='Focal')"
                    ' for a softmax',
                )

    def forward(self, prediction: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
        """A loss of tensors, or a term of levels; see the class."""
        if isinstance(prediction, Tensor):
            return self.on_targets(prediction, target, *args, **kwargs)
        return super().forward(prediction, target, *args, **kwargs)

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
        with torch.autocast(logits.device.type, enabled=False):
            logits = full_precision(logits)
            loss = self.per_sample(logits, as_probabilities(target, logits))
            if weight is not None:
                loss = loss * weight.reshape(-1)
            loss = self.loss_weight * loss
            if reduction_override == 'none':
                return loss
            if reduction_override == 'sum':
                return loss.sum()
            return loss.mean() if avg_factor is None else loss.sum() / avg_factor

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """Weighted sum of the members: (M, K) and (M, K) to (M,)."""
        if any(member.kind == 'softmax' for member in self.members):
            _check_distribution(target)
        return self._sum(logits, dict.fromkeys(get_args(Kind), target))

    def _sum(self, logits: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the members, with a target for each kind."""
        total = logits.new_zeros(len(logits))
        for index, member in enumerate(self.members):
            loss = member(logits, targets[member.kind])
            if self.log_variances is not None:
                s = self.log_variances[index]
                loss = torch.exp(-s) * loss + s / 2
            total = total + self.weights[index] * loss
        return total

    def over_levels(
        self,
        student: list[Level],
        teacher: list[Level],
        mask: Sequence[Tensor] | None,
    ) -> Tensor | dict[str, Tensor]:
        """The term on a dense head, or the mean over levels of logits."""
        s, t = student[0], teacher[0]
        if not isinstance(s, DenseOutput) or not isinstance(t, DenseOutput):
            return super().over_levels(student, teacher, mask)
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
        return loss.sum() / sure.sum().clamp_min(len(s.scores))

    def pair(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """The term on logits (N, K), (N, L, K) or (N, K, H, W)."""
        _same(student, teacher)
        rows = [
            (x.movedim(1, -1) if x.dim() == 4 else x).flatten(0, -2)
            for x in (student, teacher)
        ]
        return self._soft(*rows).mean()

    def _soft(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of each row against the teacher's probabilities."""
        soft = teacher / self.tau
        targets = dict(softmax=soft.softmax(-1), sigmoid=soft.sigmoid())
        return self._sum(student / self.tau, targets) * self.tau**2


def _member(cfg: dict) -> Member:
    kind = cfg.get('type') if isinstance(cfg, dict) else None
    if kind not in MEMBERS:
        raise ConfigError(
            'LossAggregation: unknown loss',
            actual=cfg,
            available=nearest(str(kind), list(MEMBERS), limit=len(MEMBERS)),
            hint="losses=[dict(type='CE'), dict(type='Focal', gamma=2.0)]",
        )
    cls = MEMBERS[str(kind)]
    known = cls.__init__.__code__.co_varnames[1 : cls.__init__.__code__.co_argcount]
    rest = {k: v for k, v in cfg.items() if k not in ('type', '_scope_')}
    own = known if cls.__init__ is not nn.Module.__init__ else ()
    check_keys(rest, list(own), f'LossAggregation: {kind}')
    return cls(**rest)


def as_probabilities(target: Tensor | tuple[Tensor, Tensor], logits: Tensor) -> Tensor:
    """A target of any kind as (M, K): labels become 1 in one place, the label K
    (mmdet's background) nothing, (labels, qualities) the quality in one place."""
    if isinstance(target, (tuple, list)):
        labels, quality = target
        return as_probabilities(labels, logits) * quality[:, None].to(logits)
    if target.dim() == logits.dim():
        _same(logits, target)
        return full_precision(target).to(logits)
    classes = logits.shape[-1]
    return F.one_hot(target, classes + 1)[:, :classes].to(logits)


def _check_distribution(target: Tensor) -> None:
    wrong = (target.sum(-1) - 1).abs() > 1e-3
    if wrong.any():
        raise ConfigError(
            'LossAggregation: soft targets must sum to 1; labels must be of a class',
            actual=f'{target.sum(-1)[wrong][0].item():.4g} in {int(wrong.sum())} of'
            f' {len(target)} samples',
            hint="dict(type='BinaryCE') or dict(type='Focal', use_sigmoid=True) takes"
            ' targets of independent classes',
        )


def _same(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ShapeMismatchError(
            'LossAggregation: logits and targets differ in shape',
            expected=f'{tuple(teacher.shape)}',
            actual=f'{tuple(student.shape)}',
        )
