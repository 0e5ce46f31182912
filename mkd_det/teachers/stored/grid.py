"""The places where a dense head predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The places where a head predicts, of all levels.

    Args:
        centres: Centre (P, 2) of each place, in input pixels.
        strides: Input pixels per cell (P,) of its level.
        starts: Index of the first place of each level, and P.
        sizes: (h, w) of each level.
        steps: Input pixels per cell of each level.
    """

    centres: Tensor
    strides: Tensor
    starts: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    steps: tuple[int, ...]

    @classmethod
    def of(
        cls,
        priors: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        steps: Sequence[int],
    ) -> Grid:
        """Return the grid of a head's priors.

        Args:
            priors: Anchors (P_l, 4) or points (P_l, 2) of each level, cell by cell.
            sizes: (h, w) of each level.
            steps: Input pixels per cell of each level.
        """
        centres = [
            (p[:, :2] + p[:, 2:4]) / 2 if p.shape[1] == 4 else p[:, :2] for p in priors
        ]
        strides = [c.new_full((len(c),), float(s)) for c, s in zip(centres, steps)]
        starts = [0]
        for level in centres:
            starts.append(starts[-1] + len(level))
        return cls(
            torch.cat(centres),
            torch.cat(strides),
            tuple(starts),
            tuple(sizes),
            tuple(steps),
        )

    def __len__(self) -> int:
        return self.starts[-1]

    def anchors(self, level: int) -> int:
        """Return the number of places in each cell of a level."""
        h, w = self.sizes[level]
        return (self.starts[level + 1] - self.starts[level]) // (h * w)

    def cells(self, points: Tensor, level: int) -> Tensor:
        """Return the cells (M, 2), as x and y, that are nearest to points (M, 2).

        They may be outside of the map.
        """
        first = self.centres[self.starts[level]].double()
        return ((points - first) / self.steps[level]).round().long()

    def on_map(self, cells: Tensor, level: int) -> Tensor:
        """Return whether each of the cells (M, 2) is on the map of a level."""
        h, w = self.sizes[level]
        return ((cells >= 0) & (cells < cells.new_tensor([w, h]))).all(1)

    def places(self, cells: Tensor, anchors: Tensor, level: int) -> Tensor:
        """Return the places (M,) of anchors (M,) of the nearest cells of the map."""
        h, w = self.sizes[level]
        x, y = cells[:, 0].clamp(0, w - 1), cells[:, 1].clamp(0, h - 1)
        return self.starts[level] + (y * w + x) * self.anchors(level) + anchors
