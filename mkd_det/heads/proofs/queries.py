"""Proves that heads of queries (DETR and its kin) are read exactly.

Encoder, decoder and head are copied and their weights are spread; they run on random
features, in eval mode, and in training mode with an object, so that denoising queries
and further queries are there. What is read of both must be the same, and must be what
the head's own `predict_by_feat` predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .predictions import Predictions
from .proof import (
    ReadTwice,
    compare_modes,
    compare_predictions,
    probabilities,
    proving,
    spread_copy,
    train_without_norms,
)

if TYPE_CHECKING:
    from ..readers.queries import QueryReader

# Side of the image to which boxes are scaled, in pixels.
_SIDE = 1000


def prove_queries(
    reader: QueryReader,
    model: Any,
    head: nn.Module,
    features: Sequence[Tensor],
    where: str,
) -> ReadTwice:
    """Raise unless the queries of a head are read as it predicts them.

    Args:
        reader: The reader of the head.
        model: The detector. It is left as it is.
        head: Its head.
        features: Maps like those that the encoder gets.
        where: Name of the head, for messages.

    Returns:
        What is read in both modes.

    Raises:
        HeadKindError: They are read otherwise, or the model cannot be run.
    """
    name = f'{where}: {type(head).__name__} of {type(model).__name__}'
    with proving(name):
        parts = (model.backbone, getattr(model, 'neck', None))
        copy = spread_copy(model, without=[part for part in parts if part is not None])
        maps = tuple(torch.randn_like(level[:1]) for level in features)
        own = type(reader)(copy.bbox_head)
        copy.eval()
        output = _run(own, copy, maps)
        evaluated = own.read(copy.bbox_head, own.layout(output) or [])
        compare_predictions(
            _predict(copy.bbox_head, output, evaluated.scores.shape[1]),
            probabilities(evaluated.scores[0], own.activation),
            _in_pixels(evaluated.boxes),
            (),
            name,
        )
        train_without_norms(copy)
        trained = own.read(copy.bbox_head, own.layout(_run(own, copy, maps)) or [])
        compare_modes(trained, evaluated, (), name)
        return ReadTwice(trained, evaluated)
    raise AssertionError  # the context raises or returns


def _run(reader: QueryReader, model: Any, maps: Sequence[Tensor]) -> Any:
    """Return what the head yields."""
    seen: list[Any] = []
    handle = model.bbox_head.register_forward_hook(
        lambda module, args, output: seen.append(output)
    )
    try:
        reader.run(model, model.bbox_head, maps, [_sample(maps[0])])
    finally:
        handle.remove()
    return seen[-1]


def _sample(first: Tensor) -> DetDataSample:
    """Return an image without padding, and with one object."""
    shape = (first.shape[-2] * 8, first.shape[-1] * 8)
    sample = DetDataSample(metainfo=dict(img_shape=shape, batch_input_shape=shape))
    box = first.new_tensor([[shape[1] / 4, shape[0] / 4, shape[1] / 2, shape[0] / 2]])
    label = torch.zeros(1, dtype=torch.long, device=first.device)
    sample.gt_instances = InstanceData(bboxes=box, labels=label)
    return sample


def _in_pixels(boxes: Tensor | None) -> Tensor | None:
    """Return boxes (P, 4) of the first image, clipped to it as the head clips them."""
    return None if boxes is None else (boxes[0] * _SIDE).clamp(0, _SIDE)


def _predict(head: Any, output: Any, queries: int) -> Predictions:
    """Return the head's own predictions."""
    head.test_cfg['max_per_img'] = queries
    metas = [dict(img_shape=(_SIDE, _SIDE), scale_factor=(1.0, 1.0))]
    (found,) = head.predict_by_feat(*output, metas, rescale=False)
    return Predictions(found.bboxes, found.scores, found.labels, None)
