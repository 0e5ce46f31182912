"""Proves that the mask heads of a two-stage detector are read exactly.

The second stage is copied and its weights are spread; it runs on random features and
regions. The regions lie on whole pixels and are as large as a mask, so that the masks
that the model's own `predict_mask` pastes into the image are those of the head.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ...errors import HeadKindError
from .predictions import image_metas
from .proof import OTHERWISE, proving, spread_copy, train_without_norms

# Side of the image, and number of regions.
_SIDE, _REGIONS = 128, 4
# Allowed difference, in steps of pasted masks: 255 of them are a probability of 1.
_STEPS = 2.0


def prove_masks(model: Any, where: str) -> None:
    """Raise unless masks of regions are read as the model predicts them.

    Args:
        model: A detector that `knows_mask_heads` accepts. It is left as it is.
        where: Name of the model, for messages.

    Raises:
        HeadKindError: They are read otherwise, or cannot be computed.
    """
    from ..readers.masks import mask_heads_of, masks_of_regions

    name = f'{where}: masks of {type(model.roi_head).__name__}'
    with proving(name):
        boxes_of = (getattr(model.roi_head, 'bbox_head', None),)
        head: Any = spread_copy(model.roi_head, boxes_of).eval()
        maps = _random_maps(head)
        like = torch.cat([torch.zeros(1, 1), torch.tensor([[0.0, 0, 8, 8]])], 1)
        stand_in = SimpleNamespace(roi_head=head)
        height, width = masks_of_regions(stand_in, maps, like).shape[-2:]
        corners = torch.randint(0, _SIDE - max(height, width), (_REGIONS, 2)).float()
        boxes = torch.cat([corners, corners + torch.tensor([width, height])], 1)
        regions = torch.cat([torch.zeros(_REGIONS, 1), boxes], 1)
        masks = masks_of_regions(stand_in, maps, regions).sigmoid()
        labels = torch.randint(0, mask_heads_of(head)[-1].num_classes, (_REGIONS,))
        own = masks[range(_REGIONS), labels if masks.shape[1] > 1 else 0]
        pasted = _predicted(head, maps, boxes, labels)
        for mask, image, (left, top, right, bottom) in zip(
            own, pasted, boxes.int().tolist(), strict=True
        ):
            apart = (255 * mask - image[top:bottom, left:right].float()).abs()
            if not bool((apart <= _STEPS).all()):
                raise HeadKindError(
                    f'{name} are not read as the model predicts them',
                    expected='the probabilities of its own predict_mask',
                    actual=f'{float(apart.nan_to_num(1e9).max()) / 255:.4g} apart',
                    fix=OTHERWISE,
                )
        train_without_norms(head)
        trained = masks_of_regions(stand_in, maps, regions).sigmoid()
        apart = (trained - masks).abs()
        if not bool((apart <= _STEPS / 255).all()):
            raise HeadKindError(
                f'{name} are read otherwise in train mode',
                expected='the masks of eval mode',
                actual=f'{float(apart.nan_to_num(1e9).max()):.4g} apart',
                fix=OTHERWISE,
            )


def _predicted(
    head: Any, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor
) -> Tensor:
    """Return the masks (R, H, W) in 255 steps that a second stage pastes."""
    head.test_cfg = ConfigDict({**(head.test_cfg or {}), 'mask_thr_binary': -1})
    found = InstanceData(bboxes=boxes.clone(), labels=labels)
    found.scores = torch.ones(len(boxes))
    shape = (_SIDE, _SIDE)
    metas = [{**image_metas(1)[0], 'img_shape': shape, 'ori_shape': shape}]
    return head.predict_mask(maps, metas, [found], rescale=False)[0].masks


def _random_maps(head: Any) -> tuple[Tensor, ...]:
    """Return random features of one image for the mask heads."""
    extractor = head.mask_roi_extractor
    if isinstance(extractor, nn.ModuleList):
        extractor = extractor[0]
    return tuple(
        torch.randn(1, extractor.out_channels, _SIDE // stride, _SIDE // stride)
        for stride in extractor.featmap_strides
    )
