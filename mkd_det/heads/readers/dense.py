"""Reads dense heads: class logits, boxes and box distributions at every place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from mmdet.structures.bbox import distance2bbox
from torch import Tensor, nn

from ...errors import HeadKindError, TeacherClassesError
from ...registry import HEADS
from ...structures import HeadOutput, Level, full_precision
from ..base import HeadReader, TappedHead, find_reader
from ..proofs.predictions import Predictions, own_predictions
from ..proofs.proof import ReadTwice, prove_dense

# What to write where the outputs of two heads cannot be compared.
ON_FEATURES = "a loss on features, such as PKD or FGD: taps=dict(fpn='neck')"


def is_dense_head(module: nn.Module | None) -> bool:
    """Return whether `module` is one of mmdet's dense heads with priors."""
    return hasattr(module, 'cls_out_channels') and hasattr(module, 'prior_generator')


@HEADS.register_module()
class DenseReader(HeadReader):
    """Reads all levels of a dense head with priors into one `HeadOutput`.

    The class score of a place is the probability that the head learns at all places.
    For most heads these are its class logits: those of ATSS, FCOS, PAA and DDOD are
    learned at all places, and their centerness (or IoU) only ranks results, so that it
    is left out. Heads that learn classes at objects only (YOLOX, YOLOv3, AutoAssign)
    have readers of their own, as have heads with other codings of boxes. Whether a head
    is read exactly is no matter of its class: `prove` finds it out.

    Traits: 'dense', the activation, and 'distributions' for heads that predict a
    distribution over bins for each side of a box.

    Class attributes:
        joint: Whether the class score is multiplied by the score factor (objectness)
            of the head's predictions.

    Attributes:
        bins: Number of bins of each side of a box; 0 without distributions.

    Args:
        head: The head whose output is read.

    Raises:
        HeadKindError: Its class logits have no common sigmoid or softmax.
    """

    name: ClassVar[str] = 'dense'
    joint: ClassVar[bool] = False

    def __init__(self, head: Any) -> None:
        super().__init__(head)
        if getattr(getattr(head, 'loss_cls', None), 'custom_cls_channels', False):
            raise HeadKindError(
                f'{type(head).__name__}: its classes have an activation of their own',
                expected='a sigmoid or a softmax',
                actual=type(head.loss_cls).__name__,
                fix=ON_FEATURES,
            )
        sigmoid = getattr(head, 'use_sigmoid_cls', False)
        self.activation = 'sigmoid' if sigmoid else 'softmax'
        self.bins = int(head.reg_max) + 1 if hasattr(head, 'integral') else 0
        self.classes: int = self.count_classes(head)
        self._priors: tuple[object, list[Tensor]] = (None, [])

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is one of mmdet's dense heads with priors."""
        return is_dense_head(module)

    @classmethod
    def layout(cls, value: Any) -> list[Level] | None:
        """Make a level of what the head yields in lists, one entry for each level.

        What is no list (the features of masks) is left out.
        """
        if not isinstance(value, (tuple, list)):
            return None
        lists = [part for part in value if isinstance(part, (tuple, list)) and part]
        if not lists or len({len(part) for part in lists}) > 1:
            return None
        levels = [tuple(_flat(parts)) for parts in zip(*lists, strict=True)]
        if all(isinstance(part, Tensor) for level in levels for part in level):
            return list(levels)
        return None

    @property
    def traits(self) -> frozenset[str]:
        """Words for what the head is, for the `needs` of recipes."""
        return super().traits | ({'distributions'} if self.bins else set())

    # -- what differs between kinds of decoding ------------------------------------

    @staticmethod
    def count_classes(head: Any) -> int:
        """Return the number of class logits of a place, background included."""
        return head.cls_out_channels

    def logits(self, head: Any, level: Level) -> Tensor:
        """Return the class logits (N, P, C) of one level."""
        return rows(full_precision(level[0]), self.classes)

    def sides(self, head: Any, level: Level) -> Tensor:
        """Return what the boxes of one level are decoded from, (N, P, ...)."""
        width = 4 * max(self.bins, 1)
        sides = rows(full_precision(level[1]), width)
        return sides.unflatten(-1, (4, self.bins)) if self.bins else sides

    def decode(self, head: Any, sides: Tensor, priors: Tensor, index: int) -> Any:
        """Decode the boxes (N, P, 4) of one level; None if the head has no coder.

        Args:
            head: The head as it is now.
            sides: What `sides` returned.
            priors: Anchors (P, 4) or points (P, 2).
            index: Index of the level.
        """
        stride = self._strides(head)[index]
        if self.bins:
            sides = _expected_bin(sides) * stride
        elif getattr(head, 'norm_on_bbox', False) and head.training:
            # FCOS multiplies by the stride in eval mode only.
            sides = sides * stride
        return _decode(head, priors, sides, bool(self.bins))

    def priors(self, head: Any, sizes: list[Any], device: Any) -> list[Tensor]:
        """Return anchors (P, 4) or points (P, 2) of all levels.

        Args:
            head: The head.
            sizes: (H, W) of each level.
            device: Where they are needed.
        """
        return head.prior_generator.grid_priors(sizes, device=device)

    def level_strides(self, head: Any) -> tuple[int | None, ...]:
        """Return the strides of the head's priors."""
        return tuple(_strides(head))

    def _strides(self, head: Any) -> tuple[Any, ...]:
        return self.level_strides(head)

    # -- reading -------------------------------------------------------------------

    def read(self, head: Any, levels: Sequence[Level], **beside: Any) -> HeadOutput:
        """Read one forward.

        Args:
            head: The head as it is now.
            levels: Per level (class scores (N, A*C, H, W), boxes (N, A*D, H, W), ...),
                as the head yields them; D is 4 or 4 * bins.
            **beside: Not used.

        Returns:
            HeadOutput: In float32, with P the sum of A*H*W over the levels that are
                kept.
        """
        grid = self._grid(head, levels)
        kept = range(len(levels)) if self.kept is None else self.kept
        scores = [self.logits(head, levels[index]) for index in kept]
        boxes, sides = None, None
        if self.decodes or self.bins:
            sides = [self.sides(head, levels[index]) for index in kept]
        if self.decodes and sides is not None:
            decoded = [
                self.decode(head, side, grid[index], index)
                for side, index in zip(sides, kept)
            ]
            known = [box for box in decoded if box is not None]
            boxes = torch.cat(known, 1) if len(known) == len(decoded) else None
        return HeadOutput(
            torch.cat(scores, 1),
            boxes,
            torch.cat(sides, 1) if self.bins and sides is not None else None,
            tuple(grid[index] for index in kept),
        )

    def _grid(self, head: Any, levels: Sequence[Level]) -> list[Tensor]:
        """Return the priors of every level, kept until the maps change their size."""
        sizes = _sizes(levels)
        device = levels[0][0].device
        if self._priors[0] != (sizes, device):
            self._priors = ((sizes, device), self.priors(head, sizes, device))
        return self._priors[1]

    # -- checks --------------------------------------------------------------------

    def prove(
        self, model: Any, head: Any, features: Sequence[Tensor], where: str
    ) -> ReadTwice:
        """Raise unless scores and boxes are those of the head's own predictions."""
        return prove_dense(self, head, features, where)

    def predict(self, head: Any, output: Any, images: int) -> list[Predictions]:
        """Return the head's own predictions without NMS, for `prove`.

        Args:
            head: A copy of the head, in eval mode, which may be changed.
            output: What its `forward` returned.
            images: Number of images.
        """
        return own_predictions(head, output, images)

    def check_comparable(
        self, student: TappedHead, teacher: TappedHead, where: str
    ) -> None:
        """Raise unless both heads predict the same classes at the same places.

        Places with one prior may be half a cell apart (anchors stand at the corner of
        a cell, points in its middle), and their anchors may have any size: boxes are
        compared decoded. Where a place has several priors, they must be the same and
        in the same order. Levels that are not kept are left out.

        Args:
            student: The student's head.
            teacher: The teacher's head.
            where: Name of the term, for messages.

        Raises:
            HeadKindError: They predict at other places, or with other anchors.
            TeacherClassesError: They have another number of classes.
        """
        ours, theirs = (_Places.of(side) for side in (student, teacher))
        if ours.classes != theirs.classes and not teacher.mapped:
            raise TeacherClassesError(
                f'{where}: student and teacher have different numbers of classes',
                expected=f'{theirs.classes} class outputs, as the teacher',
                actual=f'{ours.classes} in the student',
                fix='bbox_head=dict(num_classes=...) of both, as the data has them',
            )
        if str(ours) != str(theirs):
            raise HeadKindError(
                f'{where}: the heads predict at different places',
                expected=f'{theirs}, as the teacher',
                actual=f'{ours} in the student',
                fix='equal strides and anchors in both heads; or ' + ON_FEATURES,
            )
        _check_anchors(ours, theirs, where)


class _Places:
    """Where a head predicts, on the levels that are kept.

    Args:
        classes: Number of class logits of a place.
        sizes: (H, W) of each level.
        strides: Input pixels per cell of each level.
        priors: Priors of each level, on the CPU.
    """

    def __init__(
        self, classes: int, sizes: list[Any], strides: list[Any], priors: list[Tensor]
    ) -> None:
        self.classes, self.sizes = classes, sizes
        self.strides, self.priors = strides, priors

    @classmethod
    def of(cls, tapped: TappedHead) -> _Places:
        """Return the places of a head."""
        head, levels, reader, _ = tapped
        if reader is None:
            kind = find_reader(head)
            assert kind is not None
            reader = kind(head)
        assert isinstance(reader, DenseReader)
        sizes, strides = _sizes(levels), reader.level_strides(head)
        priors = reader.priors(head, sizes, 'cpu')
        kept = range(len(levels)) if reader.kept is None else reader.kept
        return cls(
            reader.classes,
            [sizes[index] for index in kept],
            [strides[index] for index in kept],
            [priors[index].cpu() for index in kept],
        )

    def __str__(self) -> str:
        counts = [
            str(len(prior) // (h * w)) for prior, (h, w) in zip(self.priors, self.sizes)
        ]
        priors = counts[0] if len(set(counts)) == 1 else ', '.join(counts)
        maps = ' '.join(f'{h}x{w}' for h, w in self.sizes)
        strides = ', '.join(map(str, self.strides))
        return f'{priors} priors a cell, strides {strides}, maps of {maps}'


def _check_anchors(student: _Places, teacher: _Places, where: str) -> None:
    for s, t, stride in zip(
        student.priors, teacher.priors, student.strides, strict=True
    ):
        several = len(s) > 1 and torch.equal(centres(s)[0], centres(s)[1])
        if several and s.shape == t.shape:
            apart, allowed = (s - t).abs().max(), 1.0
        else:
            apart, allowed = (centres(s) - centres(t)).abs().max(), stride / 2
        if apart > allowed:
            raise HeadKindError(
                f'{where}: the heads have other anchors, or the same in another order',
                expected=f'anchors no more than {allowed:g} px apart',
                actual=f'{apart:.0f} px, at stride {stride}',
                fix='anchor_generator=dict(...) of the student as the teacher has'
                ' it: scales, ratios, strides; or ' + ON_FEATURES,
            )


def rows(tensor: Tensor, width: int) -> Tensor:
    """Reshape (N, A*width, H, W) to (N, H*W*A, width), the order of mmdet's priors."""
    n = tensor.shape[0]
    return tensor.permute(0, 2, 3, 1).reshape(n, -1, width)


def centres(priors: Tensor) -> Tensor:
    """Return the centres (P, 2) of boxes (P, 4) or points (P, 2)."""
    return (
        (priors[:, :2] + priors[:, 2:]) / 2 if priors.shape[1] == 4 else priors[:, :2]
    )


def _flat(parts: Any) -> list[Any]:
    """Return the parts of one level without nesting."""
    return [
        inner
        for part in parts
        for inner in (part if isinstance(part, (tuple, list)) else [part])
    ]


def _sizes(levels: Sequence[Level]) -> list[Any]:
    return [level[0].shape[-2:] for level in levels]


def _strides(head: Any) -> list[int]:
    return [s[0] if isinstance(s, tuple) else s for s in head.prior_generator.strides]


def _expected_bin(sides: Tensor) -> Tensor:
    """Return the mean of each side's distribution: (N, P, 4, bins) to (N, P, 4)."""
    steps = torch.arange(sides.shape[-1], device=sides.device, dtype=sides.dtype)
    # No matrix product: autocast would compute it in half precision, pixels off.
    return (sides.softmax(-1) * steps).sum(-1)


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
