"""Results of single images, from which the figure of any sample of images follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ....classification.metrics import ClassAccuracy
from .boxes import BoxResults, read_boxes


@dataclass(frozen=True)
class HitResults:
    """Which images a classifier knows.

    Args:
        images: Numbers of the images (I,).
        hits: Whether the true class is among the best k (I,).
    """

    images: np.ndarray
    hits: np.ndarray

    def values(self, weights: np.ndarray) -> np.ndarray:
        """Return the accuracy in percent of images that count several times.

        Args:
            weights: Integers of shape (N, I).

        Returns:
            Shape (N,).
        """
        return 100 * (weights @ self.hits.astype(float)) / weights.sum(1)


ImageResults = BoxResults | HitResults
_KINDS = {kind.__name__: kind for kind in (BoxResults, HitResults)}


def read_images(metric: Any, results: Sequence[Any], key: str) -> ImageResults | None:
    """Return the results of single images that a metric has evaluated.

    Args:
        metric: The metric, after its evaluation.
        results: Its results before.
        key: Key of the figure that counts.

    Returns:
        None for metrics and figures that are not the sum of images' results.
    """
    prefix, _, name = key.rpartition('/')
    if not isinstance(metric, ClassAccuracy):
        return read_boxes(metric, results, key)
    k = name.removeprefix('top')
    if metric.prefix != prefix or not k.isdigit() or not results:
        return None
    hits = np.array([label in best[: int(k)] for label, best in results])
    return HitResults(np.arange(len(hits)), hits)


def to_arrays(results: ImageResults) -> dict[str, np.ndarray]:
    """Return results of images as arrays by name, for a file."""
    return {field.name: getattr(results, field.name) for field in fields(results)}


def from_arrays(kind: str, arrays: Mapping[str, np.ndarray]) -> ImageResults | None:
    """Return results of images from the arrays of a file; None for no results."""
    if kind not in _KINDS:
        return None
    cls: Any = _KINDS[kind]
    return cls(**{field.name: arrays[field.name] for field in fields(cls)})
