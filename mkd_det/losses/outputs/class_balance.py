"""How often each class occurs, and what it counts for that."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ...functional import class_factors

# From this confidence on, a place holds the class; below, in proportion.
_PRESENT = 0.1


class ClassBalance(nn.Module):
    """Weighs the objects of classes by how much of each the teacher has seen so far.

    A batch holds few of many classes, so counts of a batch cannot make all classes
    equal. The counts here are the mean over all batches and ranks. They travel with the
    training. Outside of training they are used and stay as they are.

    Background has the weight 1, whatever the class: a class that never occurs has as
    much of it as any other, and a large factor would let it outweigh all objects.

    Args:
        exponent: See `functional.class_factors`.
    """

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = exponent
        # The number of batches, then the mean count of each class. No buffer: how many
        # classes there are is known with the first batch, and averaged copies of a
        # model demand buffers of equal size.
        self._seen = torch.zeros(1)

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
        seen = self._seen.to(counts)
        batches, mean = seen[0], seen[1:]
        if len(mean) != len(counts):
            batches, mean = torch.zeros_like(batches), torch.zeros_like(counts)
        if self.training and torch.is_grad_enabled():
            counts = counts.detach().clone()
            all_reduce(counts, 'mean')
            mean = (mean * batches + counts) / (batches + 1)
            self._seen = torch.cat([batches[None] + 1, mean])
        mean = torch.where(self._seen[0].to(counts) > 0, mean, counts)
        return class_factors(mean, self.exponent)

    def get_extra_state(self) -> Tensor:
        """Return what `state_dict` keeps."""
        return self._seen

    def set_extra_state(self, state: Tensor) -> None:
        """Continue with what `get_extra_state` has returned."""
        self._seen = state.clone()
