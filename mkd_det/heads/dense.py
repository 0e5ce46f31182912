"""Reads dense heads: class logits, boxes and box distributions at every place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from mmdet.structures.bbox import distance2bbox
from torch import Tensor, nn

from ..errors import HeadKindError, TeacherClassesError
from ..registry import HEADS
from ..structures import HeadOutput, Level, full_precision
from .base import HeadReader, TappedHead

Sizes = Sequence[Sequence[int]]  # (H, W) of each level

# TOOD's "scores" are probabilities already: no logits to compare.
_NO_LOGITS = ('TOODHead',)


def is_dense_head(module: nn.Module | None) -> bool:
    """Return whether `module` is one of mmdet's dense heads with priors."""
    return hasattr(module, 'cls_out_channels') and hasattr(module, 'prior_generator')


@HEADS.register_module()
class DenseReader(HeadReader):
    """Reads all levels of a dense head with priors into one `HeadOutput`.

    Traits: 'dense', the activation, and 'distributions' for heads that predict a
    distribution over bins for each side of a box.

    Attributes:
        bins: Number of bins of each side of a box; 0 without distributions.

    Args:
        head: The head whose output is read.

    Raises:
        HeadKindError: The head yields no class logits.
    """

    name: ClassVar[str] = 'dense'

    def __init__(self, head: Any) -> None:
        super().__init__(head)
        if type(head).__name__ in _NO_LOGITS:
            raise HeadKindError(
                f'{type(head).__name__} yields probabilities, not class logits',
                expected='a head that yields logits (GFL, RetinaNet, FCOS, ATSS, ...)',
                actual=type(head).__name__,
            )
        sigmoid = getattr(head, 'use_sigmoid_cls', False)
        self.activation = 'sigmoid' if sigmoid else 'softmax'
        self.bins = int(head.reg_max) + 1 if hasattr(head, 'integral') else 0
        self._classes = head.cls_out_channels
        self._priors: tuple[object, list[Tensor]] = (None, [])

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is one of mmdet's dense heads with priors."""
        return is_dense_head(module)

    @property
    def traits(self) -> frozenset[str]:
        """Words for what the head is, for the `needs` of recipes."""
        return super().traits | ({'distributions'} if self.bins else set())

    def read(self, head: Any, levels: Sequence[Level], **beside: Any) -> HeadOutput:
        """Read one forward.

        Args:
            head: The head as it is now.
            levels: Per level (class scores (N, A*C, H, W), boxes (N, A*D, H, W), ...),
                as the head yields them; D is 4 or 4 * bins.
            **beside: Not used.

        Returns:
            HeadOutput: In float32, with P the sum of A*H*W over levels.
        """
        width = 4 * max(self.bins, 1)
        scores = [_rows(full_precision(level[0]), self._classes) for level in levels]
        sides = [_rows(full_precision(level[1]), width) for level in levels]
        if self.bins:
            sides = [side.unflatten(-1, (4, self.bins)) for side in sides]
        return HeadOutput(
            torch.cat(scores, 1),
            self._boxes(head, levels, sides) if self.decodes else None,
            torch.cat(sides, 1) if self.bins else None,
            tuple(self._grid(head, levels)),
        )

    def _boxes(
        self, head: Any, levels: Sequence[Level], sides: Sequence[Tensor]
    ) -> Tensor | None:
        """Decode the boxes of all levels (N, P, 4); None if the head has no coder."""
        priors = self._grid(head, levels)
        boxes = []
        for side, prior, stride in zip(sides, priors, _strides(head), strict=True):
            if self.bins:
                side = _expected_bin(side) * stride
            elif getattr(head, 'norm_on_bbox', False) and head.training:
                # FCOS multiplies by the stride in eval mode only.
                side = side * stride
            boxes.append(_decode(head, prior, side, bool(self.bins)))
        known = [b for b in boxes if b is not None]
        return torch.cat(known, 1) if len(known) == len(boxes) else None

    def _grid(self, head: Any, levels: Sequence[Level]) -> list[Tensor]:
        """Return the priors of every level, kept until the maps change their size."""
        sizes = _sizes(levels)
        device = levels[0][0].device
        if self._priors[0] != (sizes, device):
            grid = head.prior_generator.grid_priors(sizes, device=device)
            self._priors = ((sizes, device), grid)
        return self._priors[1]

    def check_comparable(
        self, student: TappedHead, teacher: TappedHead, where: str
    ) -> None:
        """Raise unless both heads predict the same classes at the same places.

        Places with one prior may be half a cell apart (anchors stand at the corner of
        a cell, points in its middle), and their anchors may have any size: boxes are
        compared decoded. Where a place has several priors, they must be the same and
        in the same order.

        Args:
            student: The student's head.
            teacher: The teacher's head.
            where: Name of the term, for messages.

        Raises:
            HeadKindError: They predict at other places, or with other anchors.
            TeacherClassesError: They have another number of classes.
        """
        heads = student.head, teacher.head
        ours, theirs = (head.cls_out_channels for head in heads)
        if ours != theirs:
            raise TeacherClassesError(
                f'{where}: student and teacher have different numbers of classes',
                expected=f'{theirs} class outputs, as the teacher',
                actual=f'{ours} in the student',
                fix='bbox_head=dict(num_classes=...) of both, as the data has them',
            )
        sizes = _sizes(student.levels), _sizes(teacher.levels)
        here, there = (_layout(h, s) for h, s in zip(heads, sizes))
        if here != there:
            raise HeadKindError(
                f'{where}: the heads predict at different places',
                expected=f'{there}, as the teacher',
                actual=f'{here} in the student',
                fix='equal strides and anchors in both heads; or distill features'
                ' (FeatureKD, AttentionKD on the neck)',
            )
        _check_anchors(student.head, teacher.head, sizes[0], where)


def _sizes(levels: Sequence[Level]) -> list[Any]:
    return [level[0].shape[-2:] for level in levels]


def _layout(head: Any, sizes: Sizes) -> str:
    """Describe in words where a head predicts."""
    counts = list(map(str, head.prior_generator.num_base_priors))
    priors = counts[0] if len(set(counts)) == 1 else ', '.join(counts)
    maps = ' '.join(f'{h}x{w}' for h, w in sizes)
    strides = ', '.join(map(str, _strides(head)))
    return f'{priors} priors a cell, strides {strides}, maps of {maps}'


def _check_anchors(student: Any, teacher: Any, sizes: Sizes, where: str) -> None:
    grids = (
        [grid.cpu() for grid in head.prior_generator.grid_priors(sizes, device='cpu')]
        for head in (student, teacher)
    )
    for s, t, stride in zip(*grids, _strides(student), strict=True):
        several = len(s) > 1 and torch.equal(_centres(s)[0], _centres(s)[1])
        if several and s.shape == t.shape:
            apart, allowed = (s - t).abs().max(), 1.0
        else:
            apart, allowed = (_centres(s) - _centres(t)).abs().max(), stride / 2
        if apart > allowed:
            raise HeadKindError(
                f'{where}: the heads have other anchors, or the same in another order',
                expected=f'anchors no more than {allowed:g} px apart',
                actual=f'{apart:.0f} px, at stride {stride}',
                fix='anchor_generator=dict(...) of the student as the teacher has'
                ' it: scales, ratios, strides',
            )


def _rows(tensor: Tensor, width: int) -> Tensor:
    """Reshape (N, A*width, H, W) to (N, H*W*A, width), the order of mmdet's priors."""
    n = tensor.shape[0]
    return tensor.permute(0, 2, 3, 1).reshape(n, -1, width)


def _centres(priors: Tensor) -> Tensor:
    """Return the centres (P, 2) of boxes (P, 4) or points (P, 2 or more)."""
    return (
        (priors[:, :2] + priors[:, 2:]) / 2 if priors.shape[1] == 4 else priors[:, :2]
    )


def _strides(head: Any) -> list[int]:
    return [s[0] if isinstance(s, tuple) else s for s in head.prior_generator.strides]


def _expected_bin(sides: Tensor) -> Tensor:
    """Return the mean of each side's distribution: (N, P, 4, bins) to (N, P, 4)."""
    steps = torch.arange(sides.shape[-1], device=sides.device, dtype=sides.dtype)
    return sides.softmax(-1) @ steps


def _decode(
    head: Any, priors: Tensor, predicted: Tensor, distances: bool
) -> Tensor | None:
    """Decode the boxes (N, P, 4) of one level; None if the head has no coder."""
    n = predicted.shape[0]
    coder = getattr(head, 'bbox_coder', None)
    name = type(coder).__name__
    if distances or name == 'DistancePointBBoxCoder':
        points = (
            (priors[:, :2] + priors[:, 2:4]) / 2 if priors.shape[1] == 4 else priors
        )
        return distance2bbox(points.expand(n, -1, -1), predicted)
    if coder is None or priors.shape[1] != 4:
        return None
    flat = coder.decode(priors.repeat(n, 1), predicted.flatten(0, 1))
    return flat.view(n, -1, 4)
