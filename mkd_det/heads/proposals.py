"""Runs the first stage of two-stage detectors for proposals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import RPNHead
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
