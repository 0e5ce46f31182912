"""Weigh several teachers by sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..class_maps.class_map import ClassMap
from ..errors import ShapeMismatchError
from ..functional import merged_logits
from ..heads.ground_truth import image_labels
from ..structures import Knowledge, Level, Levels, first_tensor, full_precision


class TeacherWeights:
    r"""Weighs teachers by how well they know the label of each sample.

    .. math:: w_k = \frac{K}{K - 1} \left(1 - \frac{e^{L_k}}{\sum_j e^{L_j}}\right)

    with :math:`L_k` the cross entropy of teacher k on the label. Zhang et al.:
    "Confidence-Aware Multi-Teacher Knowledge Distillation", ICASSP 2022, arXiv
    2201.00007, whose weights sum to 1 over the teachers. Here their mean is 1, so that
    the weights of the terms keep their meaning. A single teacher has weight 1.

    A teacher with a class map is compared by the classes that it shares with the
    student. Where it does not know the label of a sample, its weight is 0, and the
    teachers that know it share the whole; where none does, all weights are 1.

    Args:
        taps: Tap of the class logits (N, K), by teacher's name.
        class_maps: The class maps of those that have one.
    """

    def __init__(
        self, taps: Mapping[str, str], class_maps: Mapping[str, ClassMap] | None = None
    ) -> None:
        self.taps, self.class_maps = dict(taps), dict(class_maps or {})

    def __call__(
        self,
        known: Mapping[str, Mapping[str, Knowledge]],
        data_samples: Sequence[Any] | None,
    ) -> dict[str, Tensor]:
        """Return weights (N,) by teacher's name, for the teachers that have run.

        Args:
            known: Knowledge by owner and tap.
            data_samples: A sample per image, with `gt_label` or `gt_score`.
        """
        names = [name for name in self.taps if name in known]
        if not names:
            return {}
        levels = [known[name][self.taps[name]].levels for name in names]
        logits = [full_precision(first_tensor(level[0])) for level in levels]
        target = image_labels(data_samples, logits[0].device, 'teacher_weights')
        losses, knows = zip(
            *(
                self._loss(self.class_maps.get(name), z, target)
                for name, z in zip(names, logits)
            )
        )
        weights = confidence_weights(torch.stack(losses), torch.stack(knows))
        return dict(zip(names, weights.unbind(), strict=True))

    def _loss(
        self, classes: ClassMap | None, logits: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return a teacher's cross entropy (N,), and whether it knows the label."""
        if classes is None:
            loss = F.cross_entropy(logits, target, reduction='none')
            return loss, torch.ones_like(loss, dtype=torch.bool)
        shared = merged_logits(logits, classes.groups('teacher', False), True)
        if target.dim() == 1:
            target = F.one_hot(target, classes.ours.count).to(logits)
        target = target[:, list(classes.shared)]
        share = target.sum(-1)
        loss = F.cross_entropy(shared, target, reduction='none')
        return loss / share.clamp_min(1e-6), share > 0


def confidence_weights(losses: Tensor, knows: Tensor | None = None) -> Tensor:
    """Apply the formula of `TeacherWeights`.

    Args:
        losses: Cross entropy of each teacher on each sample, (K, N).
        knows: Which teachers know the label of which sample, (K, N); None for all.

    Returns:
        Weights (K, N), whose mean over the teachers is 1.
    """
    knows = torch.ones_like(losses, dtype=torch.bool) if knows is None else knows
    # Where none knows, all are alike.
    knows = knows | ~knows.any(0)
    count = knows.sum(0)
    shares = losses.masked_fill(~knows, -torch.inf).softmax(0)
    weights = len(losses) / (count - 1).clamp_min(1) * (1 - shares)
    return torch.where(count == 1, float(len(losses)), weights) * knows


def check_logits(levels: Levels, where: str) -> None:
    """Raise unless a tap yields class logits of whole images.

    Args:
        levels: What the tap yields.
        where: Who needs them, for the message.

    Raises:
        ShapeMismatchError: It yields anything else.
    """
    first = first_tensor(levels[0])
    if len(levels) != 1 or first.dim() != 2:
        raise ShapeMismatchError(
            f'{where}: weights by sample need class logits',
            expected='one level (N, K)',
            actual=f'{len(levels)} levels, the first {tuple(first.shape)}',
            fix="taps=dict(logits='head'), teacher_weights=dict(tap='logits')",
        )


def as_mask(weights: Tensor, level: Level) -> Tensor:
    """Return weights of samples (N,) as a mask of a level; see `PairLoss.forward`."""
    first = first_tensor(level)
    if isinstance(level, tuple):
        return weights[:, None].expand(first.shape[:2])
    size = first.shape[2:] if first.dim() == 4 else (first[0, ..., 0].numel(), 1)
    return weights.reshape(-1, 1, 1, 1).expand(-1, 1, *size)
