"""Finding the random transforms of a data pipeline."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmcv.transforms import RandomFlip
from mmdet.datasets.transforms import RandomFlip as RandomFlipOfBoxes

from ..io.random_state import preserved_random_state

# Random transforms of mmdet that do not declare their random methods with mmcv's
# `cache_randomness`.
_UNDECLARED = ('Albu', 'CutOut', 'InstaBoost')
_FLIPS = (RandomFlip, RandomFlipOfBoxes)


def random_transforms(dataset: Any) -> list[str]:
    """Return the names of transforms by which an image does not recur in later epochs.

    Transforms that declare their random methods are recognised. Other randomness is
    found by loading one sample with several seeds; the result then names the pipeline.
    A random flip is no such transform: it makes a few versions of an image.

    Args:
        dataset: A dataset of mmdet, with or without wrappers.
    """
    found = [
        type(transform).__name__
        for transform in transforms_in(dataset)
        if type(transform) not in _FLIPS
        and (
            getattr(transform, '_methods_with_randomness', None)
            or type(transform).__name__.startswith(('Random', *_UNDECLARED))
        )
    ]
    if found:
        return list(dict.fromkeys(found))
    versions = count_versions(dataset)
    seen: list[torch.Tensor] = []
    for seed in range(versions + 1):
        sample = _sample(dataset, seed)
        if not any(torch.equal(sample, other) for other in seen):
            seen.append(sample)
    few = len(seen) <= versions
    return [] if few else [f'the pipeline of {type(dataset).__name__}']


def count_versions(dataset: Any) -> int:
    """Return how many versions of an image random flips make; 1 without any."""
    flips = [t for t in transforms_in(dataset) if type(t) in _FLIPS]
    return math.prod(
        1 + (1 if isinstance(flip.direction, str) else len(flip.direction))
        for flip in flips
        if flip.prob
    )


def transforms_in(part: Any) -> Iterator[Any]:
    """Yield all transforms inside datasets, wrappers and transforms."""
    if isinstance(part, (list, tuple)):  # the pipeline of MultiImageMixDataset
        for one in part:
            yield one
            yield from transforms_in(one)
    for name in ('dataset', 'pipeline'):
        inner = getattr(part, name, None)
        if inner is not None and not isinstance(inner, (str, dict)):
            yield from transforms_in(inner)
    for inner in getattr(part, 'datasets', None) or ():
        yield from transforms_in(inner)
    for transform in getattr(part, 'transforms', None) or ():
        for one in transform if isinstance(transform, (list, tuple)) else [transform]:
            yield one
            yield from transforms_in(one)


def _sample(dataset: Any, seed: int) -> torch.Tensor:
    """Return the first image, loaded with `seed`; restores the random states."""
    with preserved_random_state():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        return torch.as_tensor(dataset[0]['inputs'])
