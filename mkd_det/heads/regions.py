"""The second stage of a detector: box heads, on regions that are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead, TridentRoIHead
from torch import Tensor, nn

from ..errors import HeadKindError

# They run the box head more than once a step, on more regions than are learned from.
_RUN_TWICE = ('OHEMSampler', 'ScoreHLRSampler')


def knows_box_heads(model: nn.Module) -> bool:
    """Whether the detector has box heads that look at regions alone."""
    head: Any = getattr(model, 'roi_head', None)
    # What builds on a cascade asks for more than regions; Trident counts images anew.
    known = isinstance(head, StandardRoIHead) or type(head) is CascadeRoIHead
    return known and head.with_bbox and not isinstance(head, TridentRoIHead)


def check_box_heads(model: nn.Module, where: str) -> None:
    """Raise HeadKindError unless what is said of regions can be compared.

    Args:
        model: Of the student or a teacher.
        where: Who asks, for messages.
    """
    head: Any = getattr(model, 'roi_head', None)
    if not knows_box_heads(model):
        raise HeadKindError(
            f'{where}: {type(model).__name__} has no box head that looks at regions'
            ' alone',
            expected='a StandardRoIHead or CascadeRoIHead, as of Faster R-CNN, Mask'
            ' R-CNN, Cascade R-CNN',
            actual=None if head is None else type(head).__name__,
            fix='SoftOutputKD for dense heads; FeatureKD on the neck for all',
        )
    for box_head in _box_heads(head):
        own_channels = getattr(box_head, 'custom_cls_channels', False)
        if own_channels or getattr(box_head.loss_cls, 'use_sigmoid', False):
            raise HeadKindError(
                f'{where}: the box head does not tell classes apart by a softmax',
                expected='a softmax over the classes and the background',
                actual=type(box_head.loss_cls).__name__
                + ('' if own_channels else ' with use_sigmoid=True'),
                fix='FeatureKD on the neck',
            )


def check_sampler(model: Any, where: str) -> None:
    """Raise HeadKindError for samplers that run a student's box head themselves."""
    samplers = getattr(model.roi_head, 'bbox_sampler', None)
    for sampler in samplers if isinstance(samplers, list) else [samplers]:
        if type(sampler).__name__ in _RUN_TWICE:
            raise HeadKindError(
                f'{where}: {type(sampler).__name__} runs the box head on regions that'
                ' nothing is learned from',
                expected='a sampler that does not, such as RandomSampler',
                fix='--cfg-options'
                ' model.student.train_cfg.rcnn.sampler.type=RandomSampler',
            )


def logits_of_regions(
    model: Any, features: Sequence[Tensor], rois: Tensor
) -> list[Tensor]:
    """Class logits (R, K + 1) from each stage.

    Args:
        model: A detector whose box heads we know.
        features: What its `extract_feat` yields.
        rois: Regions (R, 5): index of the image, and x1, y1, x2, y2 in input pixels.
    """
    head = model.roi_head
    if isinstance(head, CascadeRoIHead):
        stages = range(head.num_stages)
        return [head._bbox_forward(n, features, rois)['cls_score'] for n in stages]
    return [head._bbox_forward(features, rois)['cls_score']]


def rehearse(model: Any, features: Sequence[Tensor], inputs: Tensor) -> None:
    """Run box heads and their class loss, as a training does, with the whole of each
    image as its only region, of the first class.

    Args:
        model: A detector whose box heads we know.
        features: What its `extract_feat` yields.
        inputs: The images (N, 3, H, W).
    """
    height, width = inputs.shape[-2:]
    whole = [[index, 0, 0, width, height] for index in range(len(inputs))]
    rois = inputs.new_tensor(whole)
    stages = logits_of_regions(model, features, rois)
    for box_head, logits in zip(_box_heads(model.roi_head), stages, strict=True):
        box_head.loss_cls(logits, torch.zeros_like(rois[:, 0], dtype=torch.long))


def _box_heads(head: Any) -> list[Any]:
    several = isinstance(head.bbox_head, nn.ModuleList)
    return list(head.bbox_head) if several else [head.bbox_head]
