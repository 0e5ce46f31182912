"""How often each class occurs, and what it counts for that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...functional import class_factors

# From this confidence on, a place holds the class; below, in proportion.
_PRESENT = 0.1


class ClassBalance(nn.Module):
    """Weighs the objects of classes by how much of each the teacher has seen so far.

    A batch holds few of many classes, so counts of a batch cannot make all classes
    equal. The counts here are the mean over all batches that this process has seen.
    They travel with the training. Outside of training they are used and stay as they
    are.

    Background has the weight 1, whatever the class: a class that never occurs has as
    much of it as any other, and a large factor would let it outweigh all objects.

    Args:
        exponent: See `functional.class_factors`.
    """

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = exponent
        # The number of batches, then the mean count of each class: as many as the first
        # output has, which the plan shows.
        self.seen: Tensor
        self.register_buffer('seen', torch.zeros(1))

    def forward(
        self, sigma: Tensor, amount: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Return the weight of each class at each place.

        Args:
            sigma: The teacher's confidence in each class at each place.
            amount: How much of each class each place holds.
            mask: Weight of each place.

        Shape:
            - sigma, amount, output: (N, P, C)
            - mask: (N, P)
        """
        present = (sigma / _PRESENT).clamp(max=1)
        held = amount * present
        if mask is not None:
            held = held * mask.unsqueeze(-1)
        return 1 + (self._factors(held.sum((0, 1))) - 1) * present

    def _factors(self, counts: Tensor) -> Tensor:
        """Count a batch, and return the factor of each class, (C,)."""
        counts = counts.detach()
        if len(self.seen) != 1 + len(counts):
            self.seen = counts.new_zeros(1 + len(counts))
        if self.training and torch.is_grad_enabled():
            self.seen[0] += 1
            self.seen[1:] += (counts - self.seen[1:]) / self.seen[0]
        mean = torch.where(self.seen[0] > 0, self.seen[1:], counts)
        return class_factors(mean, self.exponent)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        saved = state_dict.get(f'{prefix}seen')
        if saved is not None and saved.shape != self.seen.shape:
            self.seen = self.seen.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
