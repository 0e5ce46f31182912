"""Runs the layers of a model that make predictions, and nothing behind them."""

from __future__ import annotations

from typing import Any

from mmdet.models.dense_heads import DETRHead, EmbeddingRPNHead
from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn

from .regions import knows_box_heads, rehearse

_OF_QUERIES = (DETRHead, EmbeddingRPNHead)


def run_features(model: Any, inputs: Tensor, second_stage: bool = False) -> None:
    """Run every layer of `model` that makes predictions, and nothing behind.

    Detectors: `extract_feat`, then the heads that read nothing but features,
    through `__call__` (`SingleStageDetector._forward` calls `bbox_head.forward`,
    which passes by hooks). Any other mmengine model: `forward(mode='tensor')`. No
    loss, no target assignment, no NMS.

    Args:
        model: The model.
        inputs: Preprocessed images (N, 3, H, W).
        second_stage: Whether box heads look at something, too: the whole of each
            image. Of teachers that is no knowledge.
    """
    if not isinstance(model, BaseDetector):
        model(inputs, None, mode='tensor')
        return
    features = model.extract_feat(inputs)
    named = [getattr(model, name, None) for name in ('rpn_head', 'bbox_head')]
    # Heads of set predictions read queries; mask heads beside other heads, what
    # those found.
    heads = [head for head in named if head is not None] or [
        getattr(model, 'mask_head', None)
    ]
    for head in heads:
        if isinstance(head, nn.Module) and not isinstance(head, _OF_QUERIES):
            head(features)
    if second_stage and knows_box_heads(model):
        rehearse(model, features, inputs)
