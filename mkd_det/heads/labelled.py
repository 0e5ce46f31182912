"""Lets a detector compute its task loss on the first images of a batch only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from torch import Tensor


def counts_first(model: Any) -> bool:
    """Return whether `first_images` works on a model.

    That is so for one-stage detectors whose head computes its loss as mmdet's
    `BaseDenseHead` does (`loss_by_feat` on what `forward` returned), and for two-stage
    detectors with such a head as their RPN.

    Args:
        model: Any model.
    """
    if isinstance(model, TwoStageDetector):
        rpn = getattr(model, 'rpn_head', None)
        return (
            hasattr(getattr(model, 'roi_head', None), 'loss')
            and type(model).loss is TwoStageDetector.loss
            and _is_usual(rpn, 'loss_and_predict')
        )
    return (
        isinstance(model, SingleStageDetector)
        and type(model).loss is SingleStageDetector.loss
        and getattr(model, 'mask_head', None) is None
        and _is_usual(getattr(model, 'bbox_head', None), 'loss')
    )


def _is_usual(head: Any, method: str) -> bool:
    return isinstance(head, BaseDenseHead) and getattr(type(head), method) is getattr(
        BaseDenseHead, method
    )


@contextmanager
def first_images(model: Any, count: int, total: int) -> Iterator[None]:
    """Let a detector's loss count the first images of its batch only.

    All layers up to the outputs of dense heads run on the whole batch. The second
    stage of a two-stage detector gets the first images only.

    Args:
        model: A detector for which `counts_first` holds.
        count: Number of images that count, at least 1.
        total: Number of images of the batch.
    """
    patched: list[tuple[Any, str]] = []

    def patch(owner: Any, name: str) -> None:
        patched.append((owner, name))
        setattr(owner, name, _on_first(getattr(owner, name), count, total))

    try:
        if isinstance(model, TwoStageDetector):
            patch(model.rpn_head, 'loss_by_feat')
            patch(model.roi_head, 'loss')
        else:
            patch(model.bbox_head, 'loss_by_feat')
        yield
    finally:
        for owner, name in patched:
            delattr(owner, name)  # the method of the class is seen again


def _on_first(method: Callable[..., Any], count: int, total: int) -> Callable[..., Any]:
    def cut(*args: Any, **kwargs: Any) -> Any:
        short = [_cut(value, count, total) for value in args]
        named = {name: _cut(value, count, total) for name, value in kwargs.items()}
        return method(*short, **named)

    return cut


def _cut(value: Any, count: int, total: int) -> Any:
    """Cut tensors (N, ...) and lists of N things of images, at any depth."""
    if isinstance(value, Tensor):
        return value[:count] if value.dim() and len(value) == total else value
    if not isinstance(value, (list, tuple)):
        return value
    if any(isinstance(v, (Tensor, list, tuple)) for v in value):
        return type(value)(_cut(v, count, total) for v in value)  # levels
    return value[:count] if len(value) == total else value
