"""Reads dense heads that refine their boxes (VFNet, RepPoints).

In training they yield the coarse boxes as well; their predictions are the refined ones.
"""

from __future__ import annotations

from typing import Any

from mmdet.models.dense_heads import RepPointsHead, VFNetHead
from mmdet.structures.bbox import distance2bbox
from torch import Tensor, nn

from ...registry import HEADS
from ...structures import Level, full_precision
from .dense import DenseReader, centres, rows


@HEADS.register_module()
class VFNetReader(DenseReader):
    """Reads VFNet: refined distances in pixels, and IoU-aware class logits."""

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is a VFNet head."""
        return isinstance(module, VFNetHead)

    def sides(self, head: Any, level: Level) -> Tensor:
        """Return the refined distances, (N, P, 4): the last map in both modes."""
        return rows(full_precision(level[-1]), 4)

    def decode(self, head: Any, sides: Tensor, priors: Tensor, index: int) -> Tensor:
        """Decode distances from the middles of cells or anchors."""
        return distance2bbox(centres(priors).expand(len(sides), -1, -1), sides)


@HEADS.register_module()
class RepPointsReader(DenseReader):
    """Reads RepPoints: boxes around the refined points.

    Training mode yields points, eval mode the boxes around them, in strides from the
    corner of the cell.
    """

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is a RepPoints head."""
        return isinstance(module, RepPointsHead)

    def sides(self, head: Any, level: Level) -> Tensor:
        """Return the boxes around the refined points, in strides, (N, P, 4)."""
        boxes = full_precision(level[-1])
        if len(level) == 3:  # classes, points, refined points
            boxes = head.points2bbox(boxes)
        return rows(boxes, 4)

    def decode(self, head: Any, sides: Tensor, priors: Tensor, index: int) -> Tensor:
        """Return boxes in pixels."""
        return sides * self._strides(head)[index] + priors[:, :2].repeat(1, 2)
