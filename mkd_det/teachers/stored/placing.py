"""Puts stored rows of a head's output where an augmented image has their places.

Pure tensor functions: no files, no models.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...errors import DataError
from .grid import Grid
from .pairing import Move, pair
from .store import StoredImage

# Confidence of places of which nothing is stored: that of a trained detector where it
# sees nothing. Squared, as losses weigh boxes, it counts for nothing.
_NOTHING = 1e-3
# Rows that have moved less than this, in bins, keep their logits.
_STILL = 1e-4


class Placed(NamedTuple):
    """The output of a head for one image, at all places.

    Args:
        scores: Class logits (P, C).
        boxes: Boxes (P, 4) as x1, y1, x2, y2 in input pixels.
        bins: Logits of the box distributions (P, 4, B); None without.
    """

    scores: Tensor
    boxes: Tensor
    bins: Tensor | None


def place(
    image: StoredImage,
    old: Grid,
    new: Grid,
    homography: Tensor,
    shape: tuple[int, int],
    activation: Literal['sigmoid', 'softmax'],
) -> Placed:
    """Put stored rows where an augmented image has their places.

    Each place takes the row that is nearest, see `pair`. Its box moves exactly, and is
    cut off where the image was cropped. Places without a row are background: the
    teacher was sure of less there than of all that is stored.

    Args:
        image: The stored rows.
        old: The grid of the stored output.
        new: The grid of the augmented image.
        homography: Matrix (3, 3) from pixels of the file to pixels of that image.
        shape: (H, W) of that image, without padding.
        activation: What the class logits are for.

    Raises:
        DataError: The image was rotated, sheared or projected.
    """
    matrix = homography.double() @ torch.linalg.inv(image.homography.double())
    scale, offset = _scale_and_offset(matrix)
    scores, rows = image.scores.float(), image.rows.long()
    move = Move(scale, offset, image.shape, shape)
    source, target = pair(rows, _confidence(scores, activation), old, new, move)
    rows = rows[source]
    strides = old.strides[rows].double()
    sides = image.sides[source].double() * strides[:, None]
    sides = _mirrored(sides * scale.abs().repeat(2), scale)
    centres = old.centres[rows].double() * scale + offset
    shift = new.centres[target].double() - centres
    shift = torch.cat([shift, -shift], 1)
    limits = _limits(image.shape, shape, scale, offset, new.centres[target])
    placed = Placed(
        _background(scores, len(new), activation),
        _boxes(new.centres, new.strides[:, None].expand(-1, 4) / 2),
        None
        if image.bins is None
        else scores.new_zeros(len(new), *image.bins.shape[1:]),
    )
    placed.scores[target] = scores[source]
    boxes = _boxes(new.centres[target], torch.minimum(sides + shift, limits))
    placed.boxes[target] = boxes.to(placed.boxes.dtype)
    if placed.bins is not None and image.bins is not None:
        bins = _mirrored(image.bins[source].float(), scale)
        steps = new.strides[target].double()
        factor = strides[:, None] * scale.abs().repeat(2) / steps[:, None]
        moves = shift / steps[:, None], limits / steps[:, None]
        placed.bins[target] = _move_bins(bins, factor, *moves)
    return placed


def _scale_and_offset(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale (2,), negative where mirrored, and offset (2,) of a matrix."""
    rest = torch.stack([matrix[0, 1], matrix[1, 0], *matrix[2, :2], matrix[2, 2] - 1])
    scale = matrix.diagonal()[:2]
    if rest.abs().max() > 1e-3 or scale.abs().min() < 1e-6:
        raise DataError(
            'an image with soft labels was rotated, sheared or projected',
            expected='flips, resizing and crops',
            actual=f'homography_matrix {matrix.tolist()}',
            fix='a pipeline of Resize, RandomFlip and RandomCrop; or the teacher'
            ' itself, without `stored`',
        )
    return scale, matrix[:2, 2]


def _confidence(scores: Tensor, activation: str) -> Tensor:
    if activation == 'softmax':
        return scores.softmax(-1)[:, :-1].amax(-1)
    return scores.sigmoid().amax(-1)


def _mirrored(sides: Tensor, scale: Tensor) -> Tensor:
    """Exchange opposite sides (M, 4, ...) where the image was mirrored."""
    left, top = (2 if scale[0] < 0 else 0), (3 if scale[1] < 0 else 1)
    return sides[:, [left, top, (left + 2) % 4, (top + 2) % 4]]


def _limits(
    before: tuple[int, int],
    now: tuple[int, int],
    scale: Tensor,
    offset: Tensor,
    centres: Tensor,
) -> Tensor:
    """Return the largest distance (M, 4) of each side: to where it was cropped."""
    corners = torch.tensor([[0.0, 0.0], [before[1], before[0]]], dtype=torch.float64)
    corners = corners * scale + offset
    low, high = corners.amin(0), corners.amax(0)
    limit = torch.tensor([now[1], now[0]], dtype=torch.float64)
    centres = centres.double()
    free = torch.full_like(centres, torch.inf)
    least = torch.where(low < -1, centres.clamp(min=0), free)
    most = torch.where(high > limit + 1, (limit - centres).clamp(min=0), free)
    return torch.cat([least, most], 1)


def _boxes(centres: Tensor, sides: Tensor) -> Tensor:
    return torch.cat([centres - sides[:, :2], centres + sides[:, 2:]], 1)


def _background(scores: Tensor, places: int, activation: str) -> Tensor:
    """Return class logits (P, C) that are sure of no object."""
    logit = float(torch.tensor(_NOTHING, dtype=torch.float64).logit())
    if activation == 'sigmoid':
        return scores.new_full((places, scores.shape[1]), logit)
    empty = scores.new_zeros(places, scores.shape[1])
    empty[:, -1] = -logit
    return empty


def _move_bins(logits: Tensor, factor: Tensor, shift: Tensor, limit: Tensor) -> Tensor:
    """Return distributions (M, 4, B) over bins that are stretched and shifted.

    The probability of a bin goes to the two bins next to its new distance.

    Args:
        logits: Logits (M, 4, B) of the distances 0 to B - 1, in strides.
        factor: Factor (M, 4) on the distances.
        shift: What is added to them (M, 4).
        limit: Their maximum (M, 4).
    """
    count = logits.shape[-1]
    bins = torch.arange(count, dtype=torch.float64)
    moved = factor[..., None] * bins + shift[..., None]
    still = (moved - bins).abs().amax(-1) < _STILL
    still &= limit >= count - 1
    moved = torch.minimum(moved, limit[..., None]).clamp(0, count - 1)
    low = moved.floor().long().clamp(max=max(count - 2, 0))
    share = (moved - low).float()
    given = logits.softmax(-1)
    found = torch.zeros_like(given)
    found.scatter_add_(-1, low, given * (1 - share))
    found.scatter_add_(-1, (low + 1).clamp(max=count - 1), given * share)
    return torch.where(still[..., None], logits, found.clamp_min(1e-6).log())
