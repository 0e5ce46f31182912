"""Restricts what a term reads to the classes that student and teacher share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..functional import merged_logits
from ..structures import GroundTruth, HeadOutput, full_precision
from .class_map import ClassMap, Groups

# A label of a class that the teacher does not know: losses leave such rows out.
NO_LABEL = -1


@dataclass(frozen=True)
class Restriction:
    """Restricts both sides of a term to the shared classes, in one order.

    So a loss compares column i with column i and knows nothing of maps. Columns of
    other classes of the student are not read, and get no gradient.

    Args:
        classes: The map.
        whose: Whose classes each side has, 'student' or 'teacher'; sides without
            classes are left out.
        background: Whether the last column of the logits is the background.
        exclusive: Whether classes exclude each other (softmax).
    """

    classes: ClassMap
    whose: Mapping[str, str]
    background: bool = False
    exclusive: bool = False

    @classmethod
    def of_teacher(cls, classes: ClassMap, activation: str) -> Restriction:
        """Return what restricts the output of a teacher's head alone.

        Args:
            classes: The map.
            activation: What the class logits of the head are for.
        """
        softmax = activation == 'softmax'
        return cls(classes, {'teacher': 'teacher'}, softmax, softmax)

    def __call__(self, sides: Mapping[str, Any], labels: bool = True) -> dict[str, Any]:
        """Return the sides, restricted.

        Args:
            sides: Levels or head outputs by side; labels are those of the student.
            labels: Whether labels become those of the shared classes.
        """
        return {
            side: tuple(self._level(side, level, labels) for level in levels)
            for side, levels in sides.items()
        }

    def of_side(self, side: str, output: HeadOutput) -> HeadOutput:
        """Return the output of the head of one side, restricted."""
        return self._level(side, output, True)

    def truth(self, truth: GroundTruth) -> GroundTruth:
        """Return the ground truth of images, its labels among the shared classes."""
        return truth._replace(labels=tuple(map(self._labels, truth.labels)))

    def labels_of_student(self, truth: GroundTruth) -> GroundTruth:
        """Return the ground truth, labels of shared classes as the student's."""
        shared = self.classes.shared
        labels = tuple(
            torch.tensor(shared, device=known.device)[known] for known in truth.labels
        )
        return truth._replace(labels=labels)

    def _level(self, side: str, level: Any, labels: bool) -> Any:
        if isinstance(level, Tensor) and not level.is_floating_point():
            return self._labels(level) if labels else level
        if side not in self.whose:
            return level
        groups = self.classes.groups(self.whose[side], self.background)
        if isinstance(level, HeadOutput):
            return self._output(level, groups)
        dim = 2 if level.dim() == 3 else 1
        return merged_logits(full_precision(level), groups, self.exclusive, dim)

    def _output(self, output: HeadOutput, groups: Groups) -> HeadOutput:
        boxes, earlier = output.boxes, output.earlier
        if boxes is not None and boxes.dim() == 4 and boxes.shape[2] > 1:
            objects = groups[:-1] if self.background else groups
            boxes = _boxes_of_groups(boxes, output.scores, objects)
        if earlier is not None:
            earlier = tuple(self._output(layer, groups) for layer in earlier)
        scores = merged_logits(output.scores, groups, self.exclusive)
        return output._replace(scores=scores, boxes=boxes, earlier=earlier)

    def _labels(self, labels: Tensor) -> Tensor:
        """Return labels among the shared classes; NO_LABEL for all others."""
        known = self.classes.labels_of('student')
        count = self.classes.ours.count
        table = [known.get(label, NO_LABEL) for label in range(count + 1)]
        inside = (labels >= 0) & (labels <= count)
        found = torch.tensor(table, device=labels.device)[labels.clamp(0, count)]
        return torch.where(inside, found, torch.full_like(found, NO_LABEL))


def _boxes_of_groups(boxes: Tensor, scores: Tensor, groups: Groups) -> Tensor:
    """Return the boxes (N, P, G, 4) of groups of classes: of the likeliest in each.

    Args:
        boxes: Boxes of each class (N, P, K, 4).
        scores: Logits (N, P, K) or (N, P, K + 1).
        groups: Indices of the classes of each group.
    """
    found = []
    for group in groups:
        index = torch.tensor(group, device=boxes.device)
        of_group = boxes.index_select(2, index)
        best = scores.index_select(2, index).argmax(-1)[..., None, None]
        found.append(of_group.gather(2, best.expand(-1, -1, 1, 4)))
    return torch.cat(found, 2)
