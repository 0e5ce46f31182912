"""What must be done to an image before it goes into an exported graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.models.detectors import BaseDetector
from mmengine.config import Config
from torch import Tensor

from ..data.pipelines import image_size
from ..registry import type_name

Size = tuple[int, int]
# Where a model does not say, sides are multiples of this: the stride of a backbone.
_USUAL_DIVISOR = 32


def pad_divisor(model: Any) -> int:
    """Return the number that the sides of a batch are multiples of.

    Args:
        model: A detector or classifier.
    """
    preprocessor = getattr(model, 'data_preprocessor', None)
    divisor = int(getattr(preprocessor, 'pad_size_divisor', 1))
    return divisor if divisor > 1 else _USUAL_DIVISOR


def padded(size: Sequence[int], divisor: int) -> Size:
    """Return (H, W), or one side for both, rounded up to multiples of a number.

    Args:
        size: In pixels.
        divisor: The number.
    """
    height, width = (-(-side // divisor) * divisor for side in (size[0], size[-1]))
    return height, width


def input_size(cfg: Config) -> Size:
    """Return (H, W) of the images that a config tests with.

    Args:
        cfg: Config of a plain model.
    """
    for split in ('test', 'val', 'train'):
        pipeline = _pipeline(cfg, split)
        if pipeline:
            return image_size(pipeline)
    return image_size(())


def describe_preprocessing(model: Any, cfg: Config) -> dict[str, Any]:
    """Return how images are prepared for a model, ready for json.

    Args:
        model: A detector or classifier.
        cfg: Its config.
    """
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    swapped = getattr(preprocessor, '_channel_conversion', False)
    # mmdet's pipelines load BGR, those of classifiers RGB.
    orders = ('BGR', 'RGB') if isinstance(model, BaseDetector) else ('RGB', 'BGR')
    normalises = getattr(preprocessor, '_enable_normalize', False)
    resizes = [
        step
        for step in _pipeline(cfg, 'test') or _pipeline(cfg, 'val')
        if type_name(step.get('type')).endswith('Resize')
    ]
    return dict(
        channel_order=orders[bool(swapped)],
        mean=_numbers(preprocessor.mean) if normalises else [0.0] * 3,
        std=_numbers(preprocessor.std) if normalises else [1.0] * 3,
        pad_size_divisor=getattr(preprocessor, 'pad_size_divisor', 1),
        pad_value=float(getattr(preprocessor, 'pad_value', 0)),
        resize=[_resize(step) for step in resizes],
    )


def _pipeline(cfg: Mapping[str, Any], split: str) -> Sequence[Mapping[str, Any]]:
    dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset') or {}
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset.get('pipeline') or ()


def _resize(step: Mapping[str, Any]) -> dict[str, Any]:
    kept = ('scale', 'scale_factor', 'keep_ratio', 'size', 'img_scale')
    return {key: step[key] for key in kept if key in step}


def _numbers(value: Tensor) -> list[float]:
    return [round(number, 6) for number in value.flatten().tolist()]
