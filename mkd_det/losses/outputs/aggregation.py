"""A weighted sum of class losses, on labels and on a teacher's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...errors import ConfigError, HeadKindError, ShapeMismatchError, is_number
from ...functional import logit_rows, weighted_average
from ...registry import LOSSES, build_component
from ...structures import HeadOutput, full_precision
from ..base import Activation, PairLoss, check_focus
from .class_losses import CLASS_LOSSES


@LOSSES.register_module()
@MODELS.register_module()
class LossAggregation(PairLoss):
    r"""A weighted sum of class losses, for labels and for soft targets of a teacher.

    .. math:: \sum_i w_i L_i, \quad \text{or, with learned weights,} \quad
        \sum_i e^{-s_i} L_i + \frac{s_i}{2}

    After Doan, Nguyen, IJ-AI 13(3), 2024, doi 10.11591/ijai.v13.i3.pp3240-3249. The
    abstract names cross entropy, balance cross entropy and focal loss, on labels and in
    distillation. It does not define "balance cross entropy": `BalancedCE` weights
    classes, `BinaryCE` compares each class with the rest. Learned weights are those of
    Kendall et al.: "Multi-Task Learning Using Uncertainty", CVPR 2018, arXiv
    1705.07115.

    The module has three uses:

    - The loss of a classifier: `loss(logits, target)`, a mean over samples.
    - `loss_cls` of mmdet's dense heads: `loss(scores, labels, weight, avg_factor=n)`.
      Labels may be (labels, qualities), as in GFL; label K is the background. Heads
      call it once per level, so :math:`s_i / 2` is added once per level: learned
      weights grow with the number of levels, in equal proportions.
    - A term: the targets are the teacher's probabilities at temperature tau, and the
      loss is multiplied by tau^2. For heads the loss is summed over rows and divided by
      the teacher's squared confidence, as in `SoftOutputKD`. The loss is least
      where student and teacher are equal; there `CE`, `BalancedCE` and `BinaryCE` are
      an entropy of the teacher, and focal losses 0.

    Args:
        losses: Configs of class losses: dict(type='CE'), 'BalancedCE', 'BinaryCE' or
            'Focal', with their arguments. None: CE, or BinaryCE for sigmoid heads.
        weights: One weight per loss, or 'learned'. None: all 1.
        tau: Temperature of terms.
        use_sigmoid: Whether classes are independent. mmdet's heads read it from the
            config. It must agree with the losses.
        loss_weight: Factor on the loss, as in mmdet's losses.
        activation: What the class logits of the heads are for. The plan fills it in.
        focus: Exponent of the teacher's confidence in the divisor, for terms of heads.
        **base: `weight` and `schedule` of a term, see `PairLoss`.

    Shape:
        - logits: (M, K); target (M,) or (M, K)
        - terms: one `HeadOutput` of (N, P, C) scores, or logits (N, K)
        - output: ()
    """

    reads: ClassVar[str] = 'outputs'
    weighs_samples: ClassVar[bool] = True
    instead: ClassVar[Mapping[str, str]] = {
        '': "losses=[dict(type='BinaryCE')], as one class has no other to exclude"
    }

    def __init__(
        self,
        losses: Sequence[dict] | None = None,
        weights: Sequence[float] | Literal['learned'] | None = None,
        tau: float = 1.0,
        use_sigmoid: bool | None = None,
        loss_weight: float = 1.0,
        activation: Activation | None = None,
        focus: float = 2.0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if not tau > 0:
            raise ConfigError(
                'LossAggregation: tau must be above 0', actual=tau, fix='tau=1.0'
            )
        if losses is None:
            independent = use_sigmoid or activation == 'sigmoid'
            losses = [dict(type='BinaryCE' if independent else 'CE')]
        self.class_losses = _build_losses(losses)
        self.weights = _check_weights(weights, len(self.class_losses))
        self.log_variances: nn.Parameter | None = None
        if weights == 'learned':
            self.log_variances = nn.Parameter(torch.zeros(len(self.class_losses)))
        check_focus('LossAggregation', focus)
        self.tau, self.loss_weight, self.focus = tau, loss_weight, focus
        self._check_activation(use_sigmoid, activation)
        self.use_sigmoid = all(x.activation == 'sigmoid' for x in self.class_losses)
        self._has_use_sigmoid = use_sigmoid is not None

    def _check_activation(
        self, use_sigmoid: bool | None, activation: Activation | None
    ) -> None:
        wanted = {activation} if activation else set()
        if use_sigmoid is not None:
            wanted.add('sigmoid' if use_sigmoid else 'softmax')
        for loss in self.class_losses:
            if wanted - {loss.activation}:
                raise HeadKindError(
                    f'LossAggregation: {type(loss).__name__} is a {loss.activation}'
                    ' loss',
                    expected=' and '.join(sorted(wanted)),
                    actual=loss.activation,
                    fix="dict(type='BinaryCE'), dict(type='Focal', use_sigmoid=True)"
                    " for independent classes;\ndict(type='CE'), dict(type='Focal')"
                    ' for a softmax',
                )

    def needs_boxes(self, student: Any, teacher: Any) -> bool:
        """Return False: it compares class scores only."""
        return False

    def forward(self, student: Any, teacher: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss of logits and targets, or of the levels of a term."""
        if isinstance(student, Tensor):
            return self.on_targets(student, teacher, *args, **kwargs)
        return super().forward(student, teacher, *args, **kwargs)

    def on_targets(
        self,
        logits: Tensor,
        target: Tensor | tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Compute the loss against labels or probabilities.

        Args:
            logits: Logits (M, K).
            target: Labels (M,), probabilities (M, K), or (labels, qualities).
            weight: Weight of each sample, (M,) or (M, 1). Optional.
            avg_factor: Divisor of the sum; None for the mean.
            reduction_override: 'none', 'mean' or 'sum', as in mmdet.
        """
        if avg_factor is not None and self.use_sigmoid and not self._has_use_sigmoid:
            # mmdet's heads read `use_sigmoid` and would add a background class.
            raise ConfigError(
                'LossAggregation: the head uses a softmax, the losses use independent'
                ' classes',
                fix='loss_cls=dict(use_sigmoid=True, ...)',
            )
        with torch.autocast(logits.device.type, enabled=False):
            logits = full_precision(logits)
            probabilities = as_probabilities(target, logits)
            if any(loss.activation == 'softmax' for loss in self.class_losses):
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

    def over_levels(
        self, student: list[Any], teacher: list[Any], mask: Sequence[Tensor] | None
    ) -> Tensor | dict[str, Tensor]:
        """Return the loss of two heads, or the mean over levels of logits."""
        loss: Any = super().over_levels(student, teacher, mask)
        return self.loss_weight * (loss + self._uncertainty())

    def outputs(
        self, student: HeadOutput, teacher: HeadOutput, mask: Tensor | None = None
    ) -> Tensor:
        """Return the loss of the class scores of two heads."""
        _check_shapes(student.scores, teacher.scores)
        s, t = student.scores.flatten(0, 1), teacher.scores.flatten(0, 1)
        loss = self._on_teacher(s, t)
        if self.use_sigmoid:
            confidence = t.sigmoid().amax(-1)
        else:
            confidence = t.softmax(-1)[:, :-1].amax(-1)
        confidence = confidence**self.focus
        if mask is not None:
            weights = mask.reshape(-1)
            loss, confidence = loss * weights, confidence * weights
        return loss.sum() / confidence.sum().clamp_min(len(student.scores))

    def pair(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Return the loss of logits (N, K), (N, L, K) or (N, K, H, W)."""
        _check_shapes(student, teacher)
        weights = None if mask is None else mask.reshape(-1)
        loss = self._on_teacher(logit_rows(student), logit_rows(teacher))
        return weighted_average(loss, weights)

    def _on_teacher(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of each row against the teacher's probabilities."""
        soft = teacher / self.tau
        targets = dict(softmax=soft.softmax(-1), sigmoid=soft.sigmoid())
        return self._sum(student / self.tau, targets) * self.tau**2

    def _sum(self, logits: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of the class losses, (M,)."""
        total = logits.new_zeros(len(logits))
        for index, loss in enumerate(self.class_losses):
            activation: Any = loss.activation
            weight: float | Tensor = self.weights[index]
            if self.log_variances is not None:
                weight = torch.exp(-self.log_variances[index])
            total = total + weight * loss(logits, targets[activation])
        return total

    def _uncertainty(self) -> Tensor | float:
        """Return the part that keeps learned weights above 0, once per call."""
        return 0.0 if self.log_variances is None else self.log_variances.sum() / 2


def _build_losses(losses: Any) -> nn.ModuleList:
    if not isinstance(losses, (list, tuple)) or not losses:
        raise ConfigError(
            'LossAggregation: losses must be a list with at least one loss',
            actual=losses,
            fix="losses=[dict(type='CE'), dict(type='Focal', gamma=2.0)]",
        )
    modules = []
    for cfg in losses:
        if not isinstance(cfg, dict):
            raise ConfigError(
                'LossAggregation: each loss must be a dict with `type`',
                actual=cfg,
                fix="dict(type='CE')",
            )
        modules.append(build_component(CLASS_LOSSES, cfg, 'LossAggregation'))
    return nn.ModuleList(modules)


def _check_weights(weights: Any, count: int) -> list[float]:
    if weights is None or weights == 'learned':
        return [1.0] * count
    is_list = isinstance(weights, (list, tuple)) and len(weights) == count
    if not is_list or not all(is_number(w) and w >= 0 for w in weights):
        raise ConfigError(
            'LossAggregation: needs one weight >= 0 per loss',
            expected=f"{count} numbers, or 'learned'",
            actual=weights,
            fix="weights='learned'",
        )
    return [float(weight) for weight in weights]


def as_probabilities(target: Tensor | tuple[Tensor, Tensor], logits: Tensor) -> Tensor:
    """Return targets of any kind as probabilities (M, K).

    Labels become one-hot rows; the label K, mmdet's background, becomes a row of zeros;
    (labels, qualities) become one-hot rows times the quality.

    Args:
        target: Labels (M,), probabilities (M, K), or (labels, qualities).
        logits: The logits (M, K) that they are for.

    Raises:
        ShapeMismatchError: Probabilities and logits differ in shape.
    """
    if isinstance(target, (tuple, list)):
        labels, quality = target
        return as_probabilities(labels, logits) * quality[:, None].to(logits)
    if target.dim() == logits.dim():
        _check_shapes(logits, target)
        return full_precision(target).to(logits)
    rows, classes = logits.shape
    one_hot = logits.new_zeros(rows, classes + 1)
    return one_hot.scatter_(1, target[:, None].long(), 1.0)[:, :classes]


def _check_distribution(target: Tensor) -> None:
    # Written so that NaN is invalid.
    valid = ((target.sum(-1) - 1).abs() <= 1e-3) & (target >= 0).all(-1)
    if not valid.all():
        first = target[~valid][0]
        raise ConfigError(
            'LossAggregation: soft targets must be probabilities that sum to 1, labels'
            ' must be in range',
            actual=f'{int((~valid).sum())} of {len(target)} samples; the first sums to'
            f' {first.sum().item():.4g}, its minimum is {first.min().item():.4g}',
            fix="dict(type='BinaryCE') or dict(type='Focal', use_sigmoid=True), for"
            ' targets of independent classes',
        )


def _check_shapes(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ShapeMismatchError(
            'LossAggregation: logits and targets differ in shape',
            expected=f'{tuple(teacher.shape)}',
            actual=f'{tuple(student.shape)}',
        )
