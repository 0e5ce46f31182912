"""Distillation from a stronger teacher by correlations (DIST)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import ConfigError, ShapeMismatchError
from ...functional import logit_rows, pearson_distance
from ...registry import LOSSES
from ..base import PairLoss


@LOSSES.register_module()
class DIST(PairLoss):
    r"""Matches correlations between classes and between samples (DIST).

    .. math:: \tau^2 \left( \beta \, \frac{1}{N} \sum_n d(p^s_{n:}, p^t_{n:})
        + \gamma \, \frac{1}{K} \sum_k d(p^s_{:k}, p^t_{:k}) \right), \qquad
        d(u, v) = 1 - \rho(u, v)

    where :math:`\rho` is Pearson's correlation and p the softmax at temperature tau.
    Huang, You, Wang, Qian, Xu: "Knowledge Distillation from A Stronger Teacher",
    NeurIPS 2022, arXiv 2205.10536. Exact probabilities of a much stronger teacher are
    hard to match; correlations are invariant to scale and shift. The published code
    has the factor :math:`\tau^2`, the paper's formula has not; both are equal at tau 1,
    the default of the paper.

    Constant rows have no correlation, so the second part is 0 for a single sample. Two
    classes correlate by 1 or -1, whatever the student yields: the first part then has
    no gradient (`beta=0` leaves it out).

    Args:
        beta: Weight of the relation between classes.
        gamma: Weight of the relation between samples.
        tau: Temperature.
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student, teacher: logits (N, K), (N, K, H, W) or (N, L, K); each position
          is a sample
        - output: dict(classes=(), samples=()), those whose weight is not 0
    """

    demands: ClassVar[frozenset[str]] = frozenset({'same_channels', 'same_spatial'})
    of_classes: ClassVar[bool] = True
    instead: ClassVar[Mapping[str, str]] = {
        'classes': 'beta=0, as two classes always correlate by 1 or -1; or'
        " type='SoftOutputKD'",
        'samples': "gamma=0; or type='SoftOutputKD'",
    }

    def __init__(
        self, beta: float = 1.0, gamma: float = 1.0, tau: float = 1.0, **base: Any
    ) -> None:
        super().__init__(**base)
        if not (beta >= 0 and gamma >= 0 and beta + gamma > 0 and tau > 0):
            raise ConfigError(
                'DIST: beta and gamma must be >= 0 and not both 0, tau > 0',
                actual=(beta, gamma, tau),
                fix='beta=1.0, gamma=1.0, tau=1.0',
            )
        self.beta, self.gamma, self.tau = beta, gamma, tau

    def over_levels(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        mask: Sequence[Tensor] | None,
    ) -> dict[str, Tensor]:
        """Return both parts, mean over levels of logits."""
        if mask is not None:
            raise ShapeMismatchError(
                'DIST: cannot weight samples, because it compares them with each other',
                fix='leave this teacher out of `teacher_weights`',
            )
        levels = [self._distances(s, t) for s, t in zip(student, teacher, strict=True)]
        between_classes, between_samples = (
            self.tau**2 * torch.stack(part).mean() for part in zip(*levels)
        )
        parts = {
            'classes': (self.beta, between_classes),
            'samples': (self.gamma, between_samples),
        }
        return {name: factor * part for name, (factor, part) in parts.items() if factor}

    def _distances(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distances between classes and between samples of one level."""
        p, q = ((logit_rows(z) / self.tau).softmax(-1) for z in (student, teacher))
        if not len(p):
            return p.sum(), p.sum()
        return pearson_distance(p, q).mean(), pearson_distance(p.t(), q.t()).mean()
