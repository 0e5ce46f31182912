"""Runs the first stage of two-stage detectors for proposals, and samples them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import RPNHead
from mmengine.structures import InstanceData
from torch import Tensor


def proposes(model: Any) -> bool:
    """Return whether a detector has an RPN that needs nothing but features."""
    return isinstance(getattr(model, 'rpn_head', None), RPNHead)


@torch.no_grad()
def proposals_of(
    model: Any, features: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]
) -> list[Tensor]:
    """Return the proposals of a detector, as in its prediction.

    Args:
        model: A detector that `proposes` accepts.
        features: What its `extract_feat` returned.
        image_sizes: (H, W) of each image, without padding.

    Returns:
        Boxes (P, 4) of each image in input pixels, the likeliest first.
    """
    metas = [
        dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        for size in image_sizes
    ]
    outputs = model.rpn_head(features)
    found = model.rpn_head.predict_by_feat(
        *outputs, batch_img_metas=metas, rescale=False
    )
    return [getattr(one.bboxes, 'tensor', one.bboxes) for one in found]


@torch.no_grad()
def sample_proposals(
    model: Any, proposals: Tensor, boxes: Tensor, labels: Tensor, stage: int | None
) -> Tensor:
    """Return the proposals of an image that the training of a detector would sample.

    Args:
        model: A detector with a second stage.
        proposals: Boxes (P, 4) in input pixels.
        boxes: Boxes (G, 4) of the ground truth, which are not sampled themselves.
        labels: Their classes (G,).
        stage: Index of the stage of a cascade; None for detectors without stages.

    Returns:
        Boxes (R, 4): in the numbers and the share of positive ones that its sampler
        is set to.
    """
    head = model.roi_head
    assigner, sampler = head.bbox_assigner, head.bbox_sampler
    if isinstance(assigner, list):
        assigner, sampler = assigner[stage or 0], sampler[stage or 0]
    truth = InstanceData(bboxes=boxes, labels=labels)
    given = InstanceData(priors=proposals)
    found = sampler.sample(assigner.assign(given, truth), given, truth)
    return torch.cat([found.pos_priors[found.pos_is_gt == 0], found.neg_priors])
