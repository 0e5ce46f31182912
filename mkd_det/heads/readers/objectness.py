"""Reads dense heads whose score is a class times an objectness.

These heads learn their classes at objects alone: what the class logit says elsewhere
means nothing. The score of a place is the product of two probabilities; its logit is
computed from both logits (`joint_logit`), so that it is read, and distilled, like the
score of any sigmoid head.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from mmdet.models.dense_heads import AutoAssignHead, YOLOV3Head, YOLOXHead
from mmdet.structures.bbox import distance2bbox
from torch import Tensor, nn

from ...functional import joint_logit
from ...registry import HEADS
from ...structures import Level, full_precision
from .dense import DenseReader, rows


class ObjectnessReader(DenseReader):
    """Reads class x objectness; the third map of a level is the objectness.

    Traits: 'dense' and 'sigmoid'.
    """

    joint: ClassVar[bool] = True

    def __init__(self, head: Any) -> None:
        super().__init__(head)
        self.activation = 'sigmoid'

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return False: its subclasses know their heads."""
        return False

    def logits(self, head: Any, level: Level) -> Tensor:
        """Return the logit of class x objectness, (N, P, C)."""
        objectness = rows(full_precision(level[2]), 1)
        return joint_logit(super().logits(head, level), objectness)


@HEADS.register_module()
class YOLOXReader(ObjectnessReader):
    """Reads YOLOX: class x objectness; a shift of the centre and the logs of sides."""

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is a YOLOX head."""
        return isinstance(module, YOLOXHead)

    def decode(self, head: Any, sides: Tensor, priors: Tensor, index: int) -> Tensor:
        """Decode the boxes by the head's own function."""
        stride = float(self._strides(head)[index])
        with_stride = torch.cat([priors, torch.full_like(priors, stride)], 1)
        return head._bbox_decode(with_stride, sides)


@HEADS.register_module()
class AutoAssignReader(ObjectnessReader):
    """Reads AutoAssign: class x objectness; distances in pixels."""

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is an AutoAssign head."""
        return isinstance(module, AutoAssignHead)

    def decode(self, head: Any, sides: Tensor, priors: Tensor, index: int) -> Tensor:
        """Decode distances that are multiplied by the stride in every mode."""
        return distance2bbox(priors.expand(len(sides), -1, -1), sides)


@HEADS.register_module()
class YOLOv3Reader(ObjectnessReader):
    """Reads YOLOv3: one map of box, objectness and classes for each anchor."""

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is a YOLOv3 head."""
        return isinstance(module, YOLOV3Head)

    @staticmethod
    def count_classes(head: Any) -> int:
        """Return the number of classes."""
        return head.num_classes

    def logits(self, head: Any, level: Level) -> Tensor:
        """Return the logit of class x objectness, (N, P, C)."""
        values = self._values(head, level)
        return joint_logit(values[..., 5:], values[..., 4:5])

    def sides(self, head: Any, level: Level) -> Tensor:
        """Return shifts of the centre and logs of the sides, (N, P, 4)."""
        return self._values(head, level)[..., :4]

    def decode(self, head: Any, sides: Tensor, priors: Tensor, index: int) -> Tensor:
        """Decode the boxes by the head's coder, from the shifts' sigmoid."""
        stride = self._strides(head)[index]
        shifts = sides[..., :2].sigmoid()
        values = torch.cat([shifts, sides[..., 2:]], -1)
        strides = values.new_full((len(priors), 1), float(stride))
        return head.bbox_coder.decode(priors, values, strides)

    def _values(self, head: Any, level: Level) -> Tensor:
        return rows(full_precision(level[0]), head.num_attrib)
