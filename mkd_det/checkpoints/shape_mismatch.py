"""What makes a model and a checkpoint differ: width or depth, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# Layers whose names say that their size depends on the classes.
_CLASS_LAYERS = re.compile(r'cls|fc|logits')
# Sequences of layers that are named when their lengths differ.
_SHOWN = 3


def describe_difference(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> str:
    """Describe how the layers of a checkpoint differ from those of a model.

    Args:
        own: State dict of the model.
        weights: State dict of the checkpoint.

    Returns:
        Words such as 'the layers of the checkpoint are 2 times as wide as those of
        the model'; '' if neither width nor depth explains the difference.
    """
    return '; '.join(
        text for text in (_width(own, weights), _depth(own, weights)) if text
    )


def width_factors(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[float, float] | None:
    """Return the smallest and largest factor by which layers differ in width.

    Layers whose size depends on the classes do not count.

    Args:
        own: State dict of the model.
        weights: State dict of the checkpoint.

    Returns:
        The factors, of the checkpoint to the model; None if no shared layer differs, or
        if some are wider and others narrower.
    """
    factors = [
        theirs / ours
        for key, value in own.items()
        if key in weights and not _CLASS_LAYERS.search(key)
        if value.dim() == weights[key].dim()
        for ours, theirs in zip(value.shape, weights[key].shape, strict=True)
        if ours != theirs and ours and theirs
    ]
    if not factors or min(factors) < 1 < max(factors):
        return None
    return min(factors), max(factors)


def _width(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    factors = width_factors(own, weights)
    if factors is None:
        return ''
    shown = ' to '.join(dict.fromkeys(f'{factor:.3g}' for factor in factors))
    return (
        f'the layers of the checkpoint are {shown} times as wide as those of the model'
    )


def _depth(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    ours, theirs = _lengths(own), _lengths(weights)
    differing = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    texts = [
        f'{name} has {theirs[name]} layers in the checkpoint, {ours[name]} in the model'
        for name in differing[:_SHOWN]
    ]
    return '; '.join(texts) + ('; ...' if len(differing) > _SHOWN else '')


def _lengths(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the lengths of all sequences of layers, by path."""
    lengths: dict[str, int] = {}
    for key in weights:
        for match in re.finditer(r'\.(\d+)\.', key):
            name = key[: match.start()]
            lengths[name] = max(lengths.get(name, 0), int(match[1]) + 1)
    return lengths
