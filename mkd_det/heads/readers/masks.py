"""Runs mask heads of two-stage detectors on given regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from torch import Tensor, nn

from ...errors import HeadKindError
from ..proofs.masks import prove_masks

# Probabilities of a mask are kept this far from 0 and 1, where logits are infinite.
_EPS = 1e-6


def knows_mask_heads(model: nn.Module) -> bool:
    """Return whether a detector has mask heads that need nothing but regions."""
    head: Any = getattr(model, 'roi_head', None)
    known = isinstance(head, StandardRoIHead) or type(head) is CascadeRoIHead
    if not (known and head.with_mask) or head.share_roi_extractor:
        return False
    return all(
        isinstance(one, FCNMaskHead) and hasattr(one, 'conv_logits')
        for one in mask_heads_of(head)
    )


def check_mask_heads(model: nn.Module, where: str) -> None:
    """Raise unless masks of a detector's regions are computed as it predicts them.

    Args:
        model: The teacher.
        where: Name of the adapter, for messages.

    Raises:
        HeadKindError: It has no mask heads of a known kind, or they are read otherwise.
    """
    if not knows_mask_heads(model):
        head: Any = getattr(model, 'roi_head', None)
        masks = getattr(head, 'mask_head', None)
        raise HeadKindError(
            f'{where}: {type(model).__name__} has no mask head that needs nothing but'
            ' regions',
            expected='an FCNMaskHead with a RoI extractor of its own, as of Mask R-CNN,'
            ' Cascade Mask R-CNN',
            actual=type(masks).__name__ if masks is not None else None,
            fix='terms=dict(loss_soft_masks=dict(weight=0)), the term of the masks; or'
            " only_with=['roi_head.mask_head.conv_logits',"
            " 'roi_head.mask_roi_extractor'] in it, as in soft_two_stage.py",
        )
    prove_masks(model, where)


def masks_of_regions(
    model: Any, features: Sequence[Tensor], regions: Tensor, stage: int | None = None
) -> Tensor:
    """Return mask logits (R, K, H, W) of regions; of a cascade those of its mean mask.

    Args:
        model: A detector that `knows_mask_heads` accepts.
        features: What its `extract_feat` returned.
        regions: Regions (R, 5): index of the image, x1, y1, x2, y2 in input pixels.
        stage: Index of the one stage of a cascade that is run; None for all.
    """
    head = model.roi_head
    if not isinstance(head, CascadeRoIHead):
        return head._mask_forward(features, regions)['mask_preds']
    stages = range(head.num_stages) if stage is None else [stage]
    masks = [head._mask_forward(n, features, regions)['mask_preds'] for n in stages]
    if len(masks) == 1:
        return masks[0]
    return torch.stack([mask.sigmoid() for mask in masks]).mean(0).logit(_EPS)


def mask_heads_of(head: Any) -> list[Any]:
    """Return the mask head of each stage of a second stage."""
    several = isinstance(head.mask_head, nn.ModuleList)
    return list(head.mask_head) if several else [head.mask_head]
