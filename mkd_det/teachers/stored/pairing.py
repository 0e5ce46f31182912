"""Finds which stored row says what at each place of an augmented image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .grid import Grid

# Moves what is just between two places, in pixels: from the row as from the place, the
# same one is then the nearest.
_NUDGE = 1e-4
# Octaves that a moved stride may be away from that of the level that it is read on.
_OCTAVES = 1.0 + 1e-3


class Move(NamedTuple):
    """How pixels of the stored input became those of an augmented image.

    Args:
        scale: Factor (2,), negative where mirrored.
        offset: What is added (2,).
        before: (H, W) of the stored input, without padding.
        now: (H, W) of the augmented image, without padding.
    """

    scale: Tensor
    offset: Tensor
    before: tuple[int, int]
    now: tuple[int, int]


class Pairs(NamedTuple):
    """Stored rows and places.

    Args:
        source: Index (M,) of each row among the stored rows.
        target: Index (M,) of its new place.
    """

    source: Tensor
    target: Tensor


def pair(rows: Tensor, confidence: Tensor, old: Grid, new: Grid, move: Move) -> Pairs:
    """Return the stored row of each new place that has one.

    Rows go to the place that is nearest to their moved centre, and places take the row
    whose moved centre is nearest, so that neither an image that is made smaller loses
    rows nor one that is enlarged has holes. Of several rows of a place, the most
    confident stays.

    Args:
        rows: Index (K,) of each stored row among all places of the old grid.
        confidence: Confidence (K,) of each.
        old: The grid of the stored output.
        new: The grid of the augmented image.
        move: How the image was moved.
    """
    found = []
    for before, after in _levels(old, new, move):
        found.append(_rows_to_places(rows, old, new, move, before, after))
        found.append(_places_to_rows(rows, old, new, move, before, after))
    source = torch.cat([pairs.source for pairs in found])
    target = torch.cat([pairs.target for pairs in found])
    order = confidence[source].argsort(descending=True, stable=True)
    rank = torch.arange(len(order))
    best = torch.full((len(new),), len(order), dtype=torch.long)
    best = best.scatter_reduce(0, target[order], rank, 'amin')
    chosen = order[best[best < len(order)]]
    return Pairs(source[chosen], target[chosen])


def _levels(old: Grid, new: Grid, move: Move) -> list[tuple[int, int]]:
    """Return which old level is read on which new one: that of the nearest stride.

    A new level that no old one is nearest to takes the old one that is nearest to it,
    unless that is too far away: the teacher finds objects of other sizes there.
    """
    size = move.scale.abs().prod().sqrt()
    moved = (torch.tensor(old.steps, dtype=torch.float64) * size).log2()
    steps = torch.tensor(new.steps, dtype=torch.float64).log2()
    distance = (moved[:, None] - steps).abs()
    found = set(enumerate(distance.argmin(1).tolist()))
    for after, before in enumerate(distance.argmin(0).tolist()):
        if distance[before, after] <= _OCTAVES:
            found.add((before, after))
    return sorted(found)


def _rows_to_places(
    rows: Tensor, old: Grid, new: Grid, move: Move, before: int, after: int
) -> Pairs:
    """Return the nearest place of each row of a level that is still in the image."""
    of_level = (rows >= old.starts[before]) & (rows < old.starts[before + 1])
    source = of_level.nonzero().flatten()
    anchor = (rows[source] - old.starts[before]) % old.anchors(before)
    centres = old.centres[rows[source]].double()
    moved = centres * move.scale + move.offset
    cells = new.cells(moved + _NUDGE, after)
    # On the edge of the image, the nearest place is the last one of the map.
    keep = _inside(moved, move.now)
    keep |= new.on_map(cells, after) & ~_inside(centres, move.before)
    keep &= anchor < new.anchors(after)
    target = new.places(cells, anchor, after)
    return Pairs(source[keep], target[keep])


def _places_to_rows(
    rows: Tensor, old: Grid, new: Grid, move: Move, before: int, after: int
) -> Pairs:
    """Return the nearest row of each place of a level, if that row is stored.

    It is at most half of the enlarged stride away.
    """
    target = torch.arange(new.starts[after], new.starts[after + 1])
    anchor = (target - new.starts[after]) % new.anchors(after)
    centres = new.centres[target].double()
    cells = old.cells((centres - _NUDGE - move.offset) / move.scale, before)
    row = old.places(cells, anchor.clamp(max=old.anchors(before) - 1), before)
    stored = torch.full((len(old),), -1, dtype=torch.long)
    stored[rows] = torch.arange(len(rows))
    # What was cut off is not to be found in the padding.
    keep = _inside(centres, move.now)
    keep |= ~_inside(old.centres[row].double(), move.before)
    keep &= old.on_map(cells, before) & (anchor < old.anchors(before))
    keep &= stored[row] >= 0
    return Pairs(stored[row][keep], target[keep])


def _inside(points: Tensor, shape: tuple[int, int]) -> Tensor:
    limit = points.new_tensor([shape[1], shape[0]])
    return ((points >= 0) & (points <= limit)).all(1)
