"""Finds what is random in a data pipeline."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..io.random_state import preserved_random_state

# Random ones of mmdet's that do not declare what is random in them, as others do
# (mmcv's `cache_randomness`).
_UNDECLARED = ('Albu', 'CutOut', 'InstaBoost')


def random_transforms(dataset: Any) -> list[str]:
    """Names of transforms of `dataset` that do not yield the same every time.

    Known are those that declare it. Others are found by asking for one sample twice,
    with other seeds; what differs then is called by the pipeline's name.

    Args:
        dataset: Of mmdet, wrapped or not.
    """
    found = [
        type(transform).__name__
        for transform in _transforms(dataset)
        if getattr(transform, '_methods_with_randomness', None)
        or type(transform).__name__.startswith(('Random', *_UNDECLARED))
    ]
    if found:
        return list(dict.fromkeys(found))
    first, second = (_sample(dataset, seed) for seed in (0, 1))
    same = first.shape == second.shape and torch.equal(first, second)
    return [] if same else [f'the pipeline of {type(dataset).__name__}']


def _transforms(part: Any) -> Iterator[Any]:
    """All transforms inside of datasets, wrappers and transforms."""
    for name in ('dataset', 'pipeline'):
        inner = getattr(part, name, None)
        if inner is not None and not isinstance(inner, (str, dict)):
            yield from _transforms(inner)
    for inner in getattr(part, 'datasets', None) or ():
        yield from _transforms(inner)
    for transform in getattr(part, 'transforms', None) or ():
        for one in transform if isinstance(transform, (list, tuple)) else [transform]:
            yield one
            yield from _transforms(one)


def _sample(dataset: Any, seed: int) -> torch.Tensor:
    """The first image, with all random states at `seed`; they are put back."""
    with preserved_random_state():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        return torch.as_tensor(dataset[0]['inputs'])
