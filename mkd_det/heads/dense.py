"""Reads what a dense head yields into class logits, boxes and box bins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.structures.bbox import distance2bbox
from torch import Tensor, nn

from ..errors import HeadKindError, TeacherClassesError
from ..structures import DenseOutput, Level, full_precision

# TOOD's "scores" are probabilities already: no logits to compare.
_NO_LOGITS = ('TOODHead',)


def is_dense_head(module: nn.Module | None) -> bool:
    """Whether `module` is one of mmdet's dense heads with priors."""
    return hasattr(module, 'cls_out_channels') and hasattr(module, 'prior_generator')


def head_kind(head: Any) -> str:
    """'sigmoid' or 'softmax': how the head's class logits are meant."""
    return 'sigmoid' if getattr(head, 'use_sigmoid_cls', False) else 'softmax'


def reads_bins(head: Any) -> int:
    """Number of bins of each box side; 0 for heads without distributions."""
    return int(head.reg_max) + 1 if hasattr(head, 'integral') else 0


class DenseReader:
    """Turns the levels of one dense head into a single `DenseOutput`.

    Args:
        head: The head whose output is read (its priors, coder and strides).

    Raises:
        HeadKindError: The head yields no class logits.
    """

    def __init__(self, head: Any) -> None:
        if type(head).__name__ in _NO_LOGITS:
            raise HeadKindError(
                f'{type(head).__name__} yields probabilities, not class logits',
                expected='a head that yields logits (GFL, RetinaNet, FCOS, ATSS, ...)',
                actual=type(head).__name__,
            )
        self.kind = head_kind(head)
        self.bins = reads_bins(head)
        # Off where nobody reads boxes: decoding them costs as much as a loss.
        self.decodes = True
        self._classes = head.cls_out_channels
        self._priors: tuple[object, list[Tensor]] = (None, [])

    def __call__(self, head: Any, levels: Sequence[Level]) -> DenseOutput:
        """Read one forward's levels.

        Args:
            head: The head as it is now (modules may have been replaced since).
            levels: Per level (class scores (N, A*C, H, W), boxes (N, A*D, H, W),
                ...), as the head yields them; D is 4 or 4 * bins.

        Returns:
            DenseOutput: In float32, with P the sum of A*H*W over levels.
        """
        width = 4 * max(self.bins, 1)
        scores = [_rows(full_precision(level[0]), self._classes) for level in levels]
        sides = [_rows(full_precision(level[1]), width) for level in levels]
        if self.bins:
            sides = [side.unflatten(-1, (4, self.bins)) for side in sides]
        return DenseOutput(
            torch.cat(scores, 1),
            self._boxes(head, levels, sides) if self.decodes else None,
            torch.cat(sides, 1) if self.bins else None,
            tuple(self._grid(head, levels)),
        )

    def _boxes(
        self, head: Any, levels: Sequence[Level], sides: Sequence[Tensor]
    ) -> Tensor | None:
        """Boxes of all levels (N, P, 4), or None where the head has no coder."""
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
        """Priors of every level, kept as long as the maps have the same size."""
        sizes = [level[0].shape[-2:] for level in levels]
        device = levels[0][0].device
        if self._priors[0] != (sizes, device):
            grid = head.prior_generator.grid_priors(sizes, device=device)
            self._priors = ((sizes, device), grid)
        return self._priors[1]


Sizes = Sequence[Sequence[int]]  # (H, W) of each level


def check_comparable(
    student: Any, teacher: Any, sizes: tuple[Sizes, Sizes], where: str
) -> None:
    """Raise unless two dense heads tell the same classes apart at the same places.

    Places with one prior may be half a cell apart (anchors stand at the corner of a
    cell, points in its middle) and their anchors of any size, for boxes are compared
    decoded. Of several priors at a place, the same must stand first.

    Args:
        student: The student's head.
        teacher: The teacher's.
        sizes: Of the maps of both.
        where: Who asks, for the message.

    Raises:
        HeadKindError: They predict elsewhere, or with other anchors.
        TeacherClassesError: They tell another number of classes apart.
    """
    ours, theirs = student.cls_out_channels, teacher.cls_out_channels
    if ours != theirs:
        raise TeacherClassesError(
            f'{where}: student and teacher tell another number of classes apart',
            expected=f'{theirs} class outputs, as the teacher',
            actual=f'{ours} in the student',
            fix='bbox_head=dict(num_classes=...) of both, as the data has them',
        )
    here, there = (_layout(h, s) for h, s in zip((student, teacher), sizes))
    if here != there:
        raise HeadKindError(
            f'{where}: the heads predict at different places',
            expected=f'{there}, as the teacher',
            actual=f'{here} in the student',
            fix='equal strides and anchors in both heads; features can be'
            ' distilled all the same (FeatureKD, AttentionKD on the neck)',
        )
    _check_anchors(student, teacher, sizes[0], where)


def _layout(head: Any, sizes: Sizes) -> str:
    """Where a head predicts, in words."""
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
    """(N, A*width, H, W) to (N, H*W*A, width): the order of mmdet's priors."""
    n = tensor.shape[0]
    return tensor.permute(0, 2, 3, 1).reshape(n, -1, width)


def _centres(priors: Tensor) -> Tensor:
    """Of boxes (P, 4) or points (P, 2 or more): (P, 2)."""
    return (
        (priors[:, :2] + priors[:, 2:]) / 2 if priors.shape[1] == 4 else priors[:, :2]
    )


def _strides(head: Any) -> list[int]:
    return [s[0] if isinstance(s, tuple) else s for s in head.prior_generator.strides]


def _expected_bin(sides: Tensor) -> Tensor:
    """Mean of each side's distribution: (N, P, 4, bins) to (N, P, 4)."""
    steps = torch.arange(sides.shape[-1], device=sides.device, dtype=sides.dtype)
    return sides.softmax(-1) @ steps


def _decode(
    head: Any, priors: Tensor, predicted: Tensor, distances: bool
) -> Tensor | None:
    """Boxes (N, P, 4) of one level, or None where the head has no coder."""
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
