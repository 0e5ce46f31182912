"""Reads box heads of two-stage detectors: class logits and boxes of given regions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from mmdet.models.roi_heads import (
    CascadeRoIHead,
    MultiInstanceRoIHead,
    PISARoIHead,
    StandardRoIHead,
    TridentRoIHead,
)
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.task_modules import DeltaXYWHBBoxCoder, LegacyDeltaXYWHBBoxCoder
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from ...errors import HeadKindError, PlanError, TeacherClassesError
from ...registry import HEADS
from ...structures import HeadOutput, Level, Levels, full_precision
from ...taps import Tap, norms_as_they_are
from ..base import HeadReader, TappedHead
from ..proofs.proof import ReadTwice
from ..proofs.regions import prove_regions
from .masks import knows_mask_heads, masks_of_regions

# Where mmdet's detectors have their second stage.
SECOND_STAGE = 'roi_head.'
BOX_HEAD = 'roi_head.bbox_head'
EXTRACTOR = 'roi_head.bbox_roi_extractor'
# Coders of deltas of x, y, w, h, whose boxes can be decoded for any regions.
_CODERS = (DeltaXYWHBBoxCoder, LegacyDeltaXYWHBBoxCoder)
# The class loss of a box head, whose second argument is the labels.
_CLASS_LOSS = re.compile(r'roi_head\.bbox_head(\.(\d+|\*))?\.loss_cls')
# What runs on the regions of a stage of a cascade, but for those of the first one.
_LATER = re.compile(
    r'roi_head\.(bbox_roi_extractor|mask_roi_extractor|bbox_head|mask_head)\.[1-9]\d*'
)
# Samplers that run the box head themselves, on more regions than are learned from.
_RUN_BOX_HEAD = ('OHEMSampler', 'ScoreHLRSampler')


@HEADS.register_module()
class RegionReader(HeadReader):
    """Reads the class logits and the boxes of a box head, for the regions of one step.

    Boxes are decoded for each class, as `BBoxHead.predict_by_feat` decodes them before
    it clips them to the image; heads with another coder than deltas of x, y, w, h have
    none. Two detectors propose different regions, so a teacher's second stage is read
    through a probe that runs it on the student's regions (`RegionHead`; for logits
    alone `ProposalHead`), and never by a tap.

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
    def beside(cls, path: str) -> dict[str, str]:
        """Return the tap of the regions that the head is run on."""
        if not path.startswith(BOX_HEAD):
            return {}
        return {'rois': path.replace(BOX_HEAD, EXTRACTOR, 1) + ':in1'}

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
                " taps=dict(rois='roi_head.bbox_roi_extractor:in1', pyramid='neck');"
                ' RegionHead for classes and boxes, ProposalMasks for masks',
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
    def when_silent(cls, tap: Tap) -> Callable[[nn.Module], Level] | None:
        """Make no labels and no regions: mmdet computes nothing where there are none.

        Without regions in a batch there is no class loss, and without any that the
        first stage of a cascade has refined, the later ones do not run.
        """
        second = tap.inputs and tap.position == 1
        if second and all(map(_CLASS_LOSS.fullmatch, tap.paths)):
            return _no_labels
        path = tap.paths[0]
        if len(tap.paths) > 1 or tap.whole or not _LATER.fullmatch(path):
            return None
        if 'extractor' in path:
            return _no_regions if second else None
        return None if tap.inputs else partial(_of_no_regions, path)

    @classmethod
    def rehearse(cls, model: Any, features: Any, inputs: Tensor) -> None:
        """Run box heads, class losses and mask heads; an image is its only region."""
        if not knows_box_heads(model):
            return
        height, width = inputs.shape[-2:]
        whole = [[index, 0, 0, width, height] for index in range(len(inputs))]
        regions = inputs.new_tensor(whole)
        stages = logits_of_regions(model, features, regions)
        labels = torch.zeros_like(regions[:, 0], dtype=torch.long)
        for box_head, logits in zip(_box_heads(model.roi_head), stages, strict=True):
            box_head.loss_cls(logits, labels)
        if knows_mask_heads(model):
            masks_of_regions(model, features, regions)

    def read(self, head: Any, levels: Sequence[Level], **beside: Levels) -> HeadOutput:
        """Read one forward.

        Args:
            head: The head as it is now.
            levels: One level: class scores (R, K + 1) of R regions, box deltas (R, 4)
                or (R, 4K), and of a probe the regions (R, 5).
            **beside: `rois` of a tapped head: the regions (R, 5).

        Returns:
            HeadOutput: Scores (1, R, K + 1) in float32, the regions of all images in
                one row; boxes (1, R, K, 4), or (1, R, 1, 4) where all classes share
                them.
        """
        logits, *others = levels[0]
        boxes = None
        regions: Sequence[Any] = others[1:] or beside.get('rois', ())
        if self.decodes and regions and others:
            boxes = decode_regions(head, regions[0], others[0])
        return HeadOutput(
            full_precision(logits)[None], None if boxes is None else boxes[None]
        )

    def prove(
        self, model: Any, head: Any, features: Sequence[Tensor], where: str
    ) -> ReadTwice:
        """Raise unless classes and boxes are those of the head's own predictions."""
        return prove_regions(self, model, head, features, where)

    def check_comparable(
        self, student: TappedHead, teacher: TappedHead, where: str
    ) -> None:
        """Raise unless both heads have the same classes, for the same regions."""
        shapes = [tuple(side.levels[0][0].shape) for side in (student, teacher)]
        if shapes[0][1] != shapes[1][1] and not teacher.mapped:
            raise TeacherClassesError(
                f'{where}: student and teacher have different numbers of classes',
                expected=f'{shapes[1][1]} class outputs, as the teacher',
                actual=f'{shapes[0][1]} in the student',
                fix='num_classes=... of both box heads, as the data has them',
            )
        if shapes[0][0] != shapes[1][0]:
            raise HeadKindError(
                f'{where}: the box heads were run on different regions',
                expected=f'{shapes[1][0]} regions, as the teacher',
                actual=f'{shapes[0][0]} in the student',
            )


def _no_labels(model: nn.Module) -> Tensor:
    device = next(model.parameters()).device
    return torch.zeros(0, dtype=torch.long, device=device)


def _no_regions(model: nn.Module) -> Tensor:
    return next(model.parameters()).new_zeros(0, 5)


def _of_no_regions(path: str, model: nn.Module) -> Level:
    """Return what a box head or mask head of a cascade yields for no region."""
    head = model.get_submodule(path)
    kind = 'mask' if 'mask_head' in path else 'bbox'
    extractors: Any = model.get_submodule(f'{SECOND_STAGE}{kind}_roi_extractor')
    extractor = extractors[int(path.rpartition('.')[2])]
    like = next(model.parameters())
    size = extractor.roi_layers[0].output_size
    with norms_as_they_are(head):  # of nothing they cannot learn
        # Its own `forward`, past the hooks of the tap.
        found = head.forward(like.new_zeros(0, extractor.out_channels, *size))
    return tuple(found) if isinstance(found, (tuple, list)) else found


def knows_box_heads(model: nn.Module) -> bool:
    """Return whether a detector has box heads that need nothing but regions."""
    head: Any = getattr(model, 'roi_head', None)
    # Subclasses of the cascade need more than regions; Trident counts images anew;
    # the other one predicts two objects for each region.
    known = isinstance(head, StandardRoIHead) or type(head) is CascadeRoIHead
    other = isinstance(head, (TridentRoIHead, MultiInstanceRoIHead))
    return known and head.with_bbox and not other


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
            fix="FeatureKD on the neck: taps=dict(fpn='neck')",
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
    stages = ['']
    if isinstance(samplers, list):
        stages = [f'.{n}' for n in range(len(samplers))]
    for sampler in samplers if isinstance(samplers, list) else [samplers]:
        if type(sampler).__name__ in _RUN_BOX_HEAD:
            raise HeadKindError(
                f'{where}: {type(sampler).__name__} runs the box head on regions that'
                ' are not learned from',
                expected='a sampler that does not, such as RandomSampler',
                fix='--cfg-options'
                + ''.join(
                    f' model.student.train_cfg.rcnn{stage}.sampler.type=RandomSampler'
                    for stage in stages
                )
                # which needs the sampler of its own
                + ' model.student.roi_head.type=StandardRoIHead'
                * isinstance(model.roi_head, PISARoIHead),
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


def run_box_heads(
    model: Any,
    features: Sequence[Tensor],
    regions: Tensor,
    stage: int | None = None,
    image_sizes: Sequence[tuple[int, int]] | None = None,
) -> tuple[Tensor, ...]:
    """Run the box heads of a detector on regions, as its prediction does.

    The stages of a cascade follow each other, each on the regions that the one before
    has refined, clipped to the image. The logits are the mean over the stages, the
    boxes those of the last.

    Args:
        model: A detector that `knows_box_heads` accepts.
        features: What its `extract_feat` returned.
        regions: Regions (R, 5): index of the image, x1, y1, x2, y2 in input pixels.
        stage: Index of the one stage of a cascade that is run; None for all.
        image_sizes: (H, W) of each image, without padding; None to clip nothing.

    Returns:
        Logits (R, K + 1), and, where boxes can be decoded, deltas (R, 4) or (R, 4K) and
        the regions (R, 5) that they start from.
    """
    head = model.roi_head
    if not isinstance(head, CascadeRoIHead):
        found = head._bbox_forward(features, regions)
        return _level(found['cls_score'], found['bbox_pred'], regions)
    stages = range(head.num_stages) if stage is None else [stage]
    logits: list[Tensor] = []
    for number in stages:
        if logits:
            regions = _refined(head.bbox_head[number - 1], regions, *found)
            if image_sizes is not None:
                regions = _clipped(regions, image_sizes)
        result = head._bbox_forward(number, features, regions)
        found = result['cls_score'], result['bbox_pred']
        logits.append(found[0])
    return _level(torch.stack(logits).mean(0), found[1], regions)


def _level(logits: Tensor, deltas: Any, regions: Tensor) -> tuple[Tensor, ...]:
    """Leave out deltas of another form, as those of SABL."""
    known = isinstance(deltas, Tensor)
    return (logits, deltas, regions) if known else (logits,)


def _refined(box_head: Any, regions: Tensor, logits: Tensor, deltas: Any) -> Tensor:
    """Return the regions (R, 5) that a stage of a cascade makes of its own."""
    if deltas is None:
        return regions
    if isinstance(deltas, Tensor):
        deltas = full_precision(deltas)
    likely = logits[:, :-1].argmax(-1)
    unclipped = dict(img_shape=None)
    boxes = box_head.regress_by_class(regions[:, 1:], likely, deltas, unclipped)
    return torch.cat([regions[:, :1], get_box_tensor(boxes)], 1)


def _clipped(regions: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Clip regions (R, 5) to their images."""
    height, width = regions.new_tensor(sizes)[regions[:, 0].long()].unbind(1)
    limits = torch.stack([width, height, width, height], 1)
    boxes = torch.minimum(regions[:, 1:].clamp_min(0), limits)
    return torch.cat([regions[:, :1], boxes], 1)


def decode_regions(box_head: Any, regions: Tensor, deltas: Any) -> Tensor | None:
    """Return the boxes (R, K, 4) of regions, K 1 where all classes share them.

    Args:
        box_head: The box head.
        regions: Regions (R, 5): index of the image, x1, y1, x2, y2 in input pixels.
        deltas: What the head yielded: (R, 4) or (R, 4K).

    Returns:
        The boxes in float32, or None for heads that code boxes in another way.
    """
    coder = getattr(box_head, 'bbox_coder', None)
    if not isinstance(deltas, Tensor) or not isinstance(coder, _CODERS):
        return None
    count = deltas.shape[1] // 4
    priors = regions[:, 1:].detach().repeat_interleave(count, 0)
    boxes = coder.decode(priors, full_precision(deltas).reshape(-1, 4))
    return get_box_tensor(boxes).view(len(regions), count, 4)


def box_head_of(model: Any, stage: int | None = None) -> Any:
    """Return the box head of a stage of a cascade, or the last one (or only one)."""
    return _box_heads(model.roi_head)[-1 if stage is None else stage]


def _box_heads(head: Any) -> list[Any]:
    several = isinstance(head.bbox_head, nn.ModuleList)
    return list(head.bbox_head) if several else [head.bbox_head]
