"""Deterministic samples of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar('Item')


def evenly_spaced(items: Sequence[Item], limit: int) -> Sequence[Item]:
    """Return `items`, or `limit` of them, evenly spaced from the first to the last."""
    if len(items) <= limit:
        return items
    step = (len(items) - 1) / max(limit - 1, 1)
    return [items[round(i * step)] for i in range(limit)]
