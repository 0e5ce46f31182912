"""Runs the first stage of two-stage detectors for proposals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import RPNHead
from torch import Tensor

from .running import image_samples


def proposes(model: Any) -> bool:
    """Return whether a detector has an RPN that needs nothing but features."""
    return isinstance(getattr(model, 'rpn_head', None), RPNHead)


@torch.no_grad()
def proposals_of(model: Any, features: Sequence[Tensor], stride: int) -> list[Tensor]:
    """Return the proposals of a detector, as in its prediction.

    Args:
        model: A detector that `proposes` accepts.
        features: What its `extract_feat` returned.
        stride: Input pixels per cell of the first of these.

    Returns:
        Boxes (P, 4) of each image in input pixels, the likeliest first.
    """
    size = features[0].shape[-2] * stride, features[0].shape[-1] * stride
    images = features[0].new_empty(len(features[0]), 3, 1, 1).expand(-1, -1, *size)
    metas = [sample.metainfo for sample in image_samples(images)]
    outputs = model.rpn_head(features)
    found = model.rpn_head.predict_by_feat(
        *outputs, batch_img_metas=metas, rescale=False
    )
    return [getattr(one.bboxes, 'tensor', one.bboxes) for one in found]
