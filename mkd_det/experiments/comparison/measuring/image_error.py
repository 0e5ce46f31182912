"""How much of a figure's error comes from the images: a bootstrap over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .image_results import ImageResults

RESAMPLES = 200


@dataclass(frozen=True)
class ImageError:
    """The error of a row's mean that comes from the choice of the images.

    Args:
        images: Number of images.
        deviation: Standard deviation of the mean over samples of images.
        difference: The same of the difference to the base, over the same samples for
            both; None for the base.
        interval: 95 % interval of that difference (percentiles); None for the base.
    """

    images: int
    deviation: float
    difference: float | None = None
    interval: tuple[float, float] | None = None


def image_errors(
    rows: Mapping[str, Sequence[ImageResults]], resamples: int = RESAMPLES
) -> dict[str, ImageError]:
    """Return the error of each row that comes from the images.

    Images are drawn with replacement, as many as there are; all rows get the same
    samples. The mean of a row is over its seeds, so that their spread, which the seeds
    tell, is hardly in it.

    Args:
        rows: Results of the trainings of each row, the base first.
        resamples: Number of samples, at least 2.

    Returns:
        The errors by row; nothing unless all rows have results of the same images.
    """
    of_all = [one.images.tolist() for results in rows.values() for one in results]
    if not of_all or not all(rows.values()) or any(one != of_all[0] for one in of_all):
        return {}
    count = len(of_all[0])
    random = np.random.default_rng(0)
    weights = random.multinomial(count, np.full(count, 1 / count), size=resamples)
    means = {
        name: np.mean([_values(one, weights) for one in results], axis=0)
        for name, results in rows.items()
    }
    base, *others = means
    errors = {base: ImageError(count, _deviation(means[base]))}
    for name in others:
        difference = means[name] - means[base]
        low, high = np.nanquantile(difference, (0.025, 0.975))
        errors[name] = ImageError(
            count,
            _deviation(means[name]),
            _deviation(difference),
            (float(low), float(high)),
        )
    return errors


def _values(results: ImageResults, weights: np.ndarray) -> np.ndarray:
    """Return the figure of each sample, in blocks that fit in memory."""
    blocks = np.array_split(weights, -(-len(weights) // 20))
    return np.concatenate([results.values(block) for block in blocks])


def _deviation(values: np.ndarray) -> float:
    return float(np.nanstd(values, ddof=1))
