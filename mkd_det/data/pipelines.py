"""What a data pipeline does to images, read from its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def image_size(pipeline: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Return (H, W) of the images that a pipeline yields.

    That is the last size it names; of several (multi-scale training), the largest.

    Args:
        pipeline: Its steps.
    """
    found = (640, 640)
    for step in pipeline:
        for key in ('scale', 'scales', 'img_scale', 'crop_size', 'size'):
            sizes = _sizes(step.get(key))
            if sizes:
                width, height = max(sizes, key=lambda wh: wh[0] * wh[1])
                # mmcv writes scales as (W, H), crops as (H, W).
                found = (width, height) if key == 'crop_size' else (height, width)
    return found


def pipeline_of(dataset: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the pipeline of a dataset's config; of the first one, of several.

    Args:
        dataset: The config, of a wrapper or not.
    """
    if 'datasets' in dataset and 'pipeline' not in dataset:
        return pipeline_of(dataset['datasets'][0])
    if 'dataset' in dataset and 'pipeline' not in dataset:
        return pipeline_of(dataset['dataset'])
    return dataset.get('pipeline') or ()


def loads_masks(dataset: Mapping[str, Any]) -> bool:
    """Return whether a dataset loads masks of objects.

    Args:
        dataset: The config, of a wrapper or not.
    """
    inner = [*dataset.get('datasets', ()), *filter(None, [dataset.get('dataset')])]
    own = dataset.get('pipeline') or ()
    return any(step.get('with_mask') for step in own) or any(map(loads_masks, inner))


def _sizes(value: Any) -> list[tuple[int, int]]:
    if not isinstance(value, (tuple, list)) or not value:
        return []
    if all(isinstance(v, int) for v in value) and len(value) == 2:
        return [(value[0], value[1])]
    return [size for part in value for size in _sizes(part)]
