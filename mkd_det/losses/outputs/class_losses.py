"""Class losses of one value per sample, for `LossAggregation`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import Registry
from torch import Tensor, nn

from ...errors import ConfigError, is_number
from ...functional import effective_number_weights, sigmoid_focal, softmax_focal
from ..base import Activation

CLASS_LOSSES = Registry('class loss', scope='mkd_det', locations=[__name__])


class ClassLoss(nn.Module):
    """A loss of logits and target probabilities, without reduction.

    For every target, also one between 0 and 1, it is least where the probabilities are
    the target.

    Class attributes:
        activation: 'softmax' for mutually exclusive classes, 'sigmoid' for independent
            classes.

    Shape:
        - logits, target: (M, K)
        - output: (M,)
    """

    activation: Activation = 'softmax'


@CLASS_LOSSES.register_module()
class CE(ClassLoss):
    """Cross entropy."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each sample."""
        return F.cross_entropy(logits, target, reduction='none')


@CLASS_LOSSES.register_module()
class BalancedCE(ClassLoss):
    """Cross entropy of samples weighted by the effective number of their class.

    The weight of a soft target is the mean of the classes' weights under it. (Weighting
    the summands of the cross entropy instead would pull the student away from the
    teacher, towards rare classes.)

    Cui et al.: "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019,
    arXiv 1901.05555.

    Args:
        counts: Number of samples of each class in the training data, including the
            background for heads whose last class is the background.
        beta: See `functional.effective_number_weights`.
    """

    def __init__(self, counts: Sequence[int], beta: float = 0.999) -> None:
        super().__init__()
        is_list = isinstance(counts, (list, tuple)) and len(counts)
        if not is_list or not all(is_number(n) and n > 0 for n in counts):
            raise ConfigError(
                'BalancedCE: every class must have samples',
                expected='a list with a count above 0 for each class',
                actual=counts,
                fix='counts=TorchvisionDataset(...).counts, without empty classes',
            )
        if not 0 <= beta < 1:
            raise ConfigError(
                'BalancedCE: beta must be at least 0 and below 1',
                actual=beta,
                fix='beta=0.999',
            )
        weights = effective_number_weights(torch.tensor(counts), beta)
        self.register_buffer('weights', weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each sample."""
        weights: Any = self.weights
        if len(weights) != logits.shape[-1]:
            raise ConfigError(
                'BalancedCE: needs one count per class',
                expected=f'{logits.shape[-1]} counts',
                actual=f'{len(weights)} counts',
            )
        return (target * weights).sum(-1) * F.cross_entropy(
            logits, target, reduction='none'
        )


@CLASS_LOSSES.register_module()
class BinaryCE(ClassLoss):
    """Binary cross entropy of each class against the rest, summed over classes."""

    activation: Activation = 'sigmoid'

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each sample."""
        return sigmoid_focal(logits, target, 0.0, None).sum(-1)


@CLASS_LOSSES.register_module()
class Focal(ClassLoss):
    """Focal loss.

    Lin et al.: "Focal Loss for Dense Object Detection", ICCV 2017, arXiv 1708.02002.

    Args:
        gamma: Focusing exponent, 0 or at least 1: larger values down-weight easy
            samples more.
        alpha: Weight of positives in the sigmoid form; negatives have 1 - alpha. None:
            both have 1.
        use_sigmoid: Use independent classes (the paper's form) instead of a softmax.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | None = 0.25,
        use_sigmoid: bool = False,
    ) -> None:
        super().__init__()
        if gamma != 0 and not gamma >= 1:
            # Between 0 and 1 the gradient of certain samples is unbounded.
            raise ConfigError(
                'Focal: gamma must be 0 or at least 1', actual=gamma, fix='gamma=2.0'
            )
        if alpha is not None and not 0 <= alpha <= 1:
            raise ConfigError(
                'Focal: alpha must be from 0 to 1, or None',
                actual=alpha,
                fix='alpha=0.25',
            )
        self.gamma, self.alpha = gamma, alpha
        self.activation = 'sigmoid' if use_sigmoid else 'softmax'

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each sample."""
        if self.activation == 'softmax':
            return softmax_focal(logits, target, self.gamma)
        return sigmoid_focal(logits, target, self.gamma, self.alpha).sum(-1)
