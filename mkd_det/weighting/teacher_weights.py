"""How much each of several teachers counts for each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeMismatchError
from ..heads.ground_truth import image_labels
from ..structures import Level, Levels, first_tensor, full_precision


class TeacherWeights:
    r"""Teachers that are right about a sample, and sure of it, count more there.

    .. math:: w_k = \frac{K}{K - 1} \left(1 - \frac{e^{L_k}}{\sum_j e^{L_j}}\right)

    with :math:`L_k` the cross entropy of teacher k on the label. Zhang et al.:
    "Confidence-Aware Multi-Teacher Knowledge Distillation", ICASSP 2022, arXiv
    2201.00007, whose weights sum to 1 over the teachers; here their mean is 1, so that
    the weights of the terms mean what they mean without. A teacher alone has weight 1.

    Args:
        taps: Tap of the class logits (N, K), by teacher's name.
    """

    def __init__(self, taps: Mapping[str, str]) -> None:
        self.taps = dict(taps)

    def __call__(
        self,
        known: Mapping[str, Mapping[str, Levels]],
        data_samples: Sequence[Any] | None,
    ) -> dict[str, Tensor]:
        """Weights (N,) by teacher's name, of those that have run.

        Args:
            known: Levels by owner and tap.
            data_samples: A sample per image, with `gt_label` or `gt_score`.
        """
        names = [name for name in self.taps if name in known]
        if not names:
            return {}
        logits = [first_tensor(known[name][self.taps[name]][0]) for name in names]
        target = image_labels(data_samples, logits[0].device, 'teacher_weights')
        losses = [
            F.cross_entropy(full_precision(z), target, reduction='none') for z in logits
        ]
        weights = confidence_weights(torch.stack(losses))
        return dict(zip(names, weights.unbind(), strict=True))


def confidence_weights(losses: Tensor) -> Tensor:
    """The formula above: (K, N) to (K, N)."""
    count = len(losses)
    if count == 1:
        return torch.ones_like(losses)
    return count / (count - 1) * (1 - losses.softmax(0))


def check_logits(levels: Levels, where: str) -> None:
    """Raise unless a tap yields class logits of whole images."""
    first = first_tensor(levels[0])
    if len(levels) != 1 or first.dim() != 2:
        raise ShapeMismatchError(
            f'{where}: weights by sample need class logits',
            expected='one level (N, K)',
            actual=f'{len(levels)} levels, the first {tuple(first.shape)}',
            fix="taps=dict(logits='head'), teacher_weights=dict(tap='logits')",
        )


def as_mask(weights: Tensor, level: Level) -> Tensor:
    """Weights of samples (N,) as a mask of a level; see `PairLoss.forward`."""
    first = first_tensor(level)
    if isinstance(level, tuple):
        return weights[:, None].expand(first.shape[:2])
    size = first.shape[2:] if first.dim() == 4 else (first[0, ..., 0].numel(), 1)
    return weights.reshape(-1, 1, 1, 1).expand(-1, 1, *size)
