"""Reads box heads of two-stage detectors: class logits of given regions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead, TridentRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from torch import Tensor, nn

from ..errors import HeadKindError, PlanError, TeacherClassesError
from ..registry import HEADS
from ..structures import HeadOutput, Level, full_precision
from ..taps import Tap
from .base import HeadReader, TappedHead

# Where mmdet's detectors have their second stage.
SECOND_STAGE = 'roi_head.'
# Samplers that run the box head themselves, on more regions than are learned from.
_RUN_BOX_HEAD = ('OHEMSampler', 'ScoreHLRSampler')


@HEADS.register_module()
class RegionReader(HeadReader):
    """Reads the class logits of a box head, for the regions of one step.

    Boxes are not read: a box head predicts one for each class. Two detectors propose
    different regions, so a teacher's second stage is read through a probe that runs it
    on the student's regions (`ProposalHead`), and never by a tap.

    Traits: 'regions' and 'softmax'.

    Args:
        head: The head whose output is read.

    Raises:
        HeadKindError: Its classes have no common softmax.
    """

    name: ClassVar[str] = 'regions'

    def __init__(self, head: Any) -> None:
        super().__init__(head)
        _check_softmax(head, type(head).__name__)
        self.activation = 'softmax'

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is one of mmdet's box heads."""
        return isinstance(module, BBoxHead)

    @classmethod
    def layout(cls, value: Any) -> list[Level] | None:
        """Make one level of class scores and box deltas."""
        return [tuple(value)] if isinstance(value, (tuple, list)) else None

    @classmethod
    def check_tap(
        cls, model: nn.Module, tap: Tap, of_student: bool, where: str
    ) -> None:
        """Raise where a tap in the second stage of a detector cannot be compared."""
        if not any(path.startswith(SECOND_STAGE) for path in tap.paths):
            return
        if not of_student:
            raise PlanError(
                f'{where} ({tap}): the second stage of a teacher has other regions'
                " than the student's",
                fix="adapters=dict(proposals=dict(type='ProposalHead', student='rois',"
                " teacher='t.pyramid')) runs it on the student's, with"
                " taps=dict(rois='roi_head.bbox_roi_extractor:in1', pyramid='neck')",
            )
        check_box_heads(model, where)
        _check_sampler(model, where)

    @classmethod
    def check_term(cls, taps: Iterable[Tap], where: str) -> None:
        """Raise where a term reads several stages of a cascade.

        Each stage has regions that the one before it has refined.
        """
        stages = {
            (path.split('.') + [''])[2]: path
            for tap in taps
            for path in tap.paths
            if path.startswith(SECOND_STAGE)
        }
        numbers = sorted(number for number in stages if number.isdigit())
        if len(numbers) > 1:
            raise PlanError(
                f'{where} reads several stages of a cascade, whose regions differ',
                expected='taps of one stage',
                actual=', '.join(stages[number] for number in numbers),
            )

    @classmethod
    def rehearse(cls, model: Any, features: Any, inputs: Tensor) -> None:
        """Run box heads and their class loss, with each image as its only region."""
        if not knows_box_heads(model):
            return
        height, width = inputs.shape[-2:]
        whole = [[index, 0, 0, width, height] for index in range(len(inputs))]
        regions = inputs.new_tensor(whole)
        stages = logits_of_regions(model, features, regions)
        labels = torch.zeros_like(regions[:, 0], dtype=torch.long)
        for box_head, logits in zip(_box_heads(model.roi_head), stages, strict=True):
            box_head.loss_cls(logits, labels)

    def read(self, head: Any, levels: Sequence[Level], **beside: Any) -> HeadOutput:
        """Read one forward.

        Args:
            head: The head as it is now.
            levels: One level: class scores (R, K + 1) of R regions, box deltas.
            **beside: Not used.

        Returns:
            HeadOutput: Scores (1, R, K + 1) in float32, the regions of all images in
                one row.
        """
        return HeadOutput(full_precision(levels[0][0])[None])

    def check_comparable(
        self, student: TappedHead, teacher: TappedHead, where: str
    ) -> None:
        """Raise unless both heads have the same classes, for the same regions."""
        shapes = [tuple(side.levels[0][0].shape) for side in (student, teacher)]
        if shapes[0][1] != shapes[1][1]:
            raise TeacherClassesError(
                f'{where}: student and teacher have different numbers of classes',
                expected=f'{shapes[1][1]} class outputs, as the teacher',
                actual=f'{shapes[0][1]} in the student',
                fix='num_classes=... of both box heads, as the data has them',
            )
        if shapes[0] != shapes[1]:
            raise HeadKindError(
                f'{where}: the box heads were run on different regions',
                expected=f'{shapes[1][0]} regions, as the teacher',
                actual=f'{shapes[0][0]} in the student',
            )


def knows_box_heads(model: nn.Module) -> bool:
    """Return whether a detector has box heads that need nothing but regions."""
    head: Any = getattr(model, 'roi_head', None)
    # Subclasses of the cascade need more than regions; Trident counts images anew.
    known = isinstance(head, StandardRoIHead) or type(head) is CascadeRoIHead
    return known and head.with_bbox and not isinstance(head, TridentRoIHead)


def check_box_heads(model: nn.Module, where: str) -> None:
    """Raise unless the class logits of a detector's regions can be compared.

    Args:
        model: The student or a teacher.
        where: Name of the tap or adapter, for messages.

    Raises:
        HeadKindError: The detector has no box heads of a known kind, or their classes
            have no common softmax.
    """
    head: Any = getattr(model, 'roi_head', None)
    if not knows_box_heads(model):
        raise HeadKindError(
            f'{where}: {type(model).__name__} has no box head that needs nothing but'
            ' regions',
            expected='a StandardRoIHead or CascadeRoIHead, as of Faster R-CNN, Mask'
            ' R-CNN, Cascade R-CNN',
            actual=None if head is None else type(head).__name__,
            fix='SoftOutputKD for dense heads; FeatureKD on the neck for all',
        )
    for box_head in _box_heads(head):
        _check_softmax(box_head, where)


def _check_softmax(box_head: Any, where: str) -> None:
    own_channels = getattr(box_head, 'custom_cls_channels', False)
    if own_channels or getattr(box_head.loss_cls, 'use_sigmoid', False):
        raise HeadKindError(
            f'{where}: the classes of the box head have no common softmax',
            expected='a softmax over the classes and the background',
            actual=type(box_head.loss_cls).__name__
            + ('' if own_channels else ' with use_sigmoid=True'),
            fix='FeatureKD on the neck',
        )


def _check_sampler(model: Any, where: str) -> None:
    """Raise HeadKindError for samplers that run the student's box head themselves."""
    samplers = getattr(model.roi_head, 'bbox_sampler', None)
    for sampler in samplers if isinstance(samplers, list) else [samplers]:
        if type(sampler).__name__ in _RUN_BOX_HEAD:
            raise HeadKindError(
                f'{where}: {type(sampler).__name__} runs the box head on regions that'
                ' are not learned from',
                expected='a sampler that does not, such as RandomSampler',
                fix='--cfg-options'
                ' model.student.train_cfg.rcnn.sampler.type=RandomSampler',
            )


def logits_of_regions(
    model: Any, features: Sequence[Tensor], regions: Tensor
) -> list[Tensor]:
    """Return the class logits (R, K + 1) of each stage.

    Args:
        model: A detector that `knows_box_heads` accepts.
        features: What its `extract_feat` returned.
        regions: Regions (R, 5): index of the image, x1, y1, x2, y2 in input pixels.
    """
    head = model.roi_head
    if isinstance(head, CascadeRoIHead):
        stages = range(head.num_stages)
        return [head._bbox_forward(n, features, regions)['cls_score'] for n in stages]
    return [head._bbox_forward(features, regions)['cls_score']]


def _box_heads(head: Any) -> list[Any]:
    several = isinstance(head.bbox_head, nn.ModuleList)
    return list(head.bbox_head) if several else [head.bbox_head]
