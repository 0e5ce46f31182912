"""The second stage of a detector, on regions that are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from torch import Tensor, nn


def has_box_head(model: nn.Module) -> bool:
    """Whether `run_box_heads` knows the detector's second stage."""
    head: Any = getattr(model, 'roi_head', None)
    # What builds on a cascade asks for more than regions.
    known = isinstance(head, StandardRoIHead) or type(head) is CascadeRoIHead
    return known and head.with_bbox


def run_box_heads(model: Any, features: Sequence[Tensor], rois: Tensor) -> list[Tensor]:
    """Class logits (R, K + 1) of regions, from each stage of a two-stage detector.

    Args:
        model: A detector that `has_box_head`.
        features: What its `extract_feat` yields.
        rois: Regions (R, 5): index of the image, and x1, y1, x2, y2 in input pixels.
    """
    head = model.roi_head
    if isinstance(head, CascadeRoIHead):
        stages = range(head.num_stages)
        return [head._bbox_forward(n, features, rois)['cls_score'] for n in stages]
    return [head._bbox_forward(features, rois)['cls_score']]
