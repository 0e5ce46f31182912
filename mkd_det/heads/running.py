"""Runs the layers of a model that make predictions, and nothing behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.models.dense_heads import DETRHead, EmbeddingRPNHead
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from torch import Tensor, nn

from .base import find_reader, reader_classes

# Heads that do not run on features alone. A reader that matches them runs them.
_NOT_ON_FEATURES = (DETRHead, EmbeddingRPNHead)


def run_features(
    model: Any,
    inputs: Any,
    samples: Sequence[Any] | None = None,
    rehearse: bool = False,
) -> tuple[Tensor, ...] | None:
    """Run every layer of `model` that makes predictions, and nothing behind.

    Detectors: `extract_feat`, then their heads as the readers of their kind run them,
    through `__call__` (`SingleStageDetector._forward` calls `bbox_head.forward`,
    where hooks do not fire). Heads of no known kind run on the features. Any other
    mmengine model: `forward(mode='tensor')`. No loss, no assignment, no NMS.

    Args:
        model: The model.
        inputs: Preprocessed images (N, C, H, W), or what else the model takes.
        samples: A data sample for each image, with its metas. None: images without
            padding, for detectors; others get None.
        rehearse: Whether to run also what only a training runs, such as box heads on
            regions, so that taps there fire.

    Returns:
        The maps that the heads get; None where they get anything else, or there are
        none.
    """
    if not isinstance(model, BaseDetector):
        return _run_tensor_mode(model, inputs, samples)
    features = model.extract_feat(inputs)
    samples = image_samples(inputs) if samples is None else samples
    named = [getattr(model, name, None) for name in ('rpn_head', 'bbox_head')]
    # Beside other heads, a mask head reads what those found.
    heads = [head for head in named if head is not None] or [
        getattr(model, 'mask_head', None)
    ]
    for head in heads:
        if not isinstance(head, nn.Module):
            continue
        kind = find_reader(head)
        if kind is not None:
            kind.run(model, head, features, samples)
        elif not isinstance(head, _NOT_ON_FEATURES):
            head(features)
    if rehearse:
        for kind in reader_classes():
            kind.rehearse(model, features, inputs)
    return _as_maps(features)


def _run_tensor_mode(
    model: Any, inputs: Any, samples: Sequence[Any] | None
) -> tuple[Tensor, ...] | None:
    """Run a model that is no detector of mmdet; return what its first head gets."""
    given: list[Any] = []
    handles = [
        module.register_forward_pre_hook(lambda _, args: given.append(args[:1]))
        for module in model.modules()
        if find_reader(module) is not None
    ]
    try:
        model(inputs, samples, mode='tensor')
    finally:
        for handle in handles:
            handle.remove()
    return _as_maps(given[0][0]) if given and given[0] else None


def _as_maps(features: Any) -> tuple[Tensor, ...] | None:
    maps = [features] if isinstance(features, Tensor) else features
    known = isinstance(maps, (list, tuple))
    return tuple(maps) if known and all(isinstance(m, Tensor) for m in maps) else None


def image_samples(inputs: Tensor) -> list[DetDataSample]:
    """Make data samples with the metas of images that have no padding.

    Args:
        inputs: The images (N, C, H, W).
    """
    shape = (inputs.shape[-2], inputs.shape[-1])
    metas = dict(
        img_shape=shape,
        ori_shape=shape,
        pad_shape=shape,
        batch_input_shape=shape,
        scale_factor=(1.0, 1.0),
    )
    return [DetDataSample(metainfo=metas) for _ in range(len(inputs))]
