"""How many classes a model has."""

from __future__ import annotations

from typing import Any

from mmdet.models.detectors import RPN
from torch import nn


def class_count(model: nn.Module) -> int | None:
    """Return the number of classes of a detector, classifier or segmentor.

    None if the model does not say, if its classes are given as text, or if it finds
    objects of any class, as an RPN does.
    """
    if hasattr(model, 'language_model') or isinstance(model, RPN):
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
