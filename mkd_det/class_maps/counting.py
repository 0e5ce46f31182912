"""How many classes a model has."""

from __future__ import annotations

from typing import Any

from torch import nn


def class_count(model: nn.Module) -> int | None:
    """Return the number of classes of a detector, classifier or segmentor.

    None if the model does not say, or if its classes are given as text.
    """
    if hasattr(model, 'language_model'):
        return None
    head: Any = model
    for name in ('roi_head', 'bbox_head'):
        head = getattr(head, name, head)
    if head is model:  # of mmseg and mmpretrain
        parts = [getattr(model, name, None) for name in ('decode_head', 'head')]
        heads = [part for part in map(_last, parts) if hasattr(part, 'num_classes')]
        head = heads[0] if heads else model
    return getattr(_last(head), 'num_classes', None)


def _last(head: Any) -> Any:
    """Return the last of several heads, or the one."""
    return head[-1] if isinstance(head, nn.ModuleList) and len(head) else head
