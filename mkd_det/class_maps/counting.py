"""How many classes a model has."""

from __future__ import annotations

from typing import Any

from torch import nn


def class_count(model: nn.Module) -> int | None:
    """Return the number of classes of a detector or classifier.

    None if the model does not say, or if its classes are given as text.
    """
    if hasattr(model, 'language_model'):
        return None
    head: Any = model
    for name in ('roi_head', 'bbox_head'):
        head = getattr(head, name, head)
    if isinstance(head, nn.ModuleList):
        head = head[-1]
    return getattr(head, 'num_classes', None)
