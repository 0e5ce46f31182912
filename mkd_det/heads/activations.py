"""Finds out what plain class logits are for: a softmax, or a sigmoid for each class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from .base import Activation

# Where heads of mmdet, mmpretrain and mmseg have the loss of their classes.
_LOSSES = ('loss_cls', 'loss_module', 'loss_decode')


def activation_at(model: nn.Module, path: str) -> Activation | None:
    """Return what the class logits at a path are trained for.

    Args:
        model: The model.
        path: Path of a head, or of a layer in it.

    Returns:
        As the loss of the nearest head around it says; None where none says.
    """
    parts = path.split('.')
    for count in range(len(parts), 0, -1):
        head = model.get_submodule('.'.join(parts[:count]))
        for name in _LOSSES:
            loss = getattr(head, name, None)
            said = [_is_sigmoid(one) for one in _class_losses(loss)]
            if said:
                return 'sigmoid' if said[0] else 'softmax'
    return None


def _class_losses(loss: Any) -> Iterator[nn.Module]:
    """Yield the losses that say it; cross entropies first, other parts may differ."""
    modules = list(loss.modules()) if isinstance(loss, nn.Module) else []
    kinds = (nn.BCEWithLogitsLoss, nn.CrossEntropyLoss)
    known = [m for m in modules if hasattr(m, 'use_sigmoid') or isinstance(m, kinds)]
    yield from sorted(known, key=lambda m: 'CrossEntropy' not in type(m).__name__)


def _is_sigmoid(loss: Any) -> bool:
    return isinstance(loss, nn.BCEWithLogitsLoss) or bool(
        getattr(loss, 'use_sigmoid', False)
    )
