"""Relations between classes and between samples, instead of exact probabilities."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ..errors import ConfigError, ShapeMismatchError
from ..functional import logit_rows, pearson_distance
from ..registry import LOSSES
from .base import PairLoss


@LOSSES.register_module()
class DIST(PairLoss):
    r"""The student ranks as the teacher does, within a sample and within a class.

    .. math:: \tau^2 \left( \beta \, \frac{1}{N} \sum_n d(p^s_{n:}, p^t_{n:})
        + \gamma \, \frac{1}{K} \sum_k d(p^s_{:k}, p^t_{:k}) \right), \qquad
        d(u, v) = 1 - \rho(u, v)

    with :math:`\rho` Pearson's correlation and p the softmax at temperature tau. Huang,
    You, Wang, Qian, Xu: "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022,
    arXiv 2205.10536: a strong teacher is too far off to be matched exactly, and
    correlation does not mind scale and shift. The published code has the factor
    :math:`\tau^2`, the paper's formula does not; at tau 1, its default, they are one.

    What does not vary has no correlation: a batch of one sample has no second part.

    Args:
        beta: Weight of the relation between classes.
        gamma: Weight of the relation between samples.
        tau: Temperature.
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student, teacher: logits (N, K), or (N, K, H, W) or (N, L, K), whose places
          are samples
        - output: ()
    """

    demands: ClassVar[frozenset[str]] = frozenset({'same_channels', 'same_spatial'})

    def __init__(
        self, beta: float = 1.0, gamma: float = 1.0, tau: float = 1.0, **base: Any
    ) -> None:
        super().__init__(**base)
        if not (beta >= 0 and gamma >= 0 and beta + gamma > 0 and tau > 0):
            raise ConfigError(
                'DIST: beta and gamma must be >= 0, one of them and tau above 0',
                actual=(beta, gamma, tau),
                fix='beta=1.0, gamma=1.0, tau=1.0',
            )
        self.beta, self.gamma, self.tau = beta, gamma, tau

    def pair(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """The loss of one level of logits."""
        if mask is not None:
            raise ShapeMismatchError(
                'DIST: samples are related to each other, and cannot be weighed',
                fix='no `teacher_weights` for this teacher',
            )
        p, q = ((logit_rows(z) / self.tau).softmax(-1) for z in (student, teacher))
        if not len(p):
            return p.sum()
        between_classes = pearson_distance(p, q).mean()
        between_samples = pearson_distance(p.t(), q.t()).mean()
        loss = self.beta * between_classes + self.gamma * between_samples
        return self.tau**2 * loss
