"""What a dense head itself predicts, before NMS."""

from __future__ import annotations

import inspect
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from mmengine.config import ConfigDict
from torch import Tensor

# So large that boxes are clipped on two sides only; mmdet clips results to the image.
_SIDE = 100_000
# Settings of mmdet's `test_cfg` with which every prediction is kept.
_KEEP_ALL = dict(
    nms_pre=10**7, score_thr=-1.0, conf_thr=-1.0, min_bbox_size=-1, max_per_img=10**7
)
# Methods that mmdet's heads hand all their predictions to, for NMS.
_POST_PROCESS = ('_bbox_post_process', '_bbox_mask_post_process')


class Predictions(NamedTuple):
    """Predictions of a head for one image.

    Args:
        boxes: Boxes (K, 4), in input pixels.
        scores: Probability of the class of each (K,), before any factor.
        labels: Class of each (K,).
        factors: What the head multiplies scores with (K,): objectness, centerness;
            None for nothing, or where the scores hold it already.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    factors: Tensor | None


def own_predictions(head: Any, output: Any, images: int) -> list[Predictions]:
    """Return what `predict_by_feat` of a head yields before NMS.

    Args:
        head: A copy of the head, in eval mode; its post-processing is taken off.
        output: What its `forward` returned.
        images: Number of images.
    """
    caught: list[Any] = []

    def catch(results: Any, *_: Any, **__: Any) -> Any:
        caught.append(results)
        return results

    for name in _POST_PROCESS:
        if hasattr(head, name):
            # Not on the class: other heads of this class go on as they are.
            object.__setattr__(head, name, catch)
    if not hasattr(head, 'loss_cls'):  # of SSD, whose predictions ask for it
        head.loss_cls = None
    parts = deepcopy(tuple(output))  # some heads change it in place
    given = dict(batch_img_metas=image_metas(images), cfg=keep_all(head), rescale=False)
    # Without post-processing it is without effect, and some heads insist on it.
    given['with_nms'] = True
    known = arguments_of(type(head), 'predict_by_feat')
    returned = head.predict_by_feat(
        *parts, **{key: value for key, value in given.items() if key in known}
    )
    return [_as_predictions(result) for result in caught or returned]


def arguments_of(cls: type, method: str) -> set[str]:
    """Return the names that a method takes; those of its base where it takes any.

    Args:
        cls: The class of a head.
        method: Name of the method.
    """
    for base in cls.__mro__:
        if method in vars(base):
            found = inspect.signature(vars(base)[method]).parameters
            if all(p.kind is not p.VAR_KEYWORD for p in found.values()):
                return set(found)
    return set()


def keep_all(head: Any) -> ConfigDict:
    """Return the head's `test_cfg`, changed so that all predictions are kept."""
    cfg = getattr(head, 'test_cfg', None) or {}
    return ConfigDict({**deepcopy(dict(cfg)), **_KEEP_ALL})


def image_metas(images: int) -> list[dict[str, Any]]:
    """Return metas of images that are larger than all boxes."""
    shape = (_SIDE, _SIDE)
    return [
        dict(
            img_shape=shape,
            ori_shape=shape,
            pad_shape=shape,
            batch_input_shape=shape,
            scale_factor=(1.0, 1.0),
        )
    ] * images


def _as_predictions(result: Any) -> Predictions:
    boxes = getattr(result.bboxes, 'tensor', result.bboxes)
    scores, factors = result.scores, result.get('score_factors')
    if scores.dim() == 2:
        return of_all_classes(boxes, scores, factors)
    labels = result.get('labels')
    if labels is None:  # of proposals
        labels = torch.zeros_like(scores).long()
    return Predictions(boxes, scores, labels, factors)


def of_all_classes(
    boxes: Tensor, scores: Tensor, factors: Tensor | None = None
) -> Predictions:
    """Return a prediction for each place and class.

    Args:
        boxes: Boxes (P, 4).
        scores: Probabilities (P, K).
        factors: Factors (P,).
    """
    classes = scores.shape[1]
    return Predictions(
        boxes.repeat_interleave(classes, 0),
        scores.flatten(),
        torch.arange(classes, device=scores.device).repeat(len(scores)),
        None if factors is None else factors.repeat_interleave(classes),
    )
