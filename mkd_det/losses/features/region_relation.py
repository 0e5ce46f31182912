"""Relations between objects, and between images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import ShapeMismatchError
from ...functional import box_cells, l2_normalize
from ...registry import LOSSES
from ...structures import GroundTruth
from ..base import PairLoss

# Least distance of a feature to the mean, in parts of the mean length of features.
LEAST = 1e-4


@LOSSES.register_module()
class RegionRelationKD(PairLoss):
    r"""Compares relations between the regions of a batch: its objects and its images.

    .. math:: \frac{1}{R^2} \sum_{i j}
        (\cos(s_i - \bar s, s_j - \bar s) - \cos(t_i - \bar t, t_j - \bar t))^2

    per level, in [0, 4]. A region is a ground-truth box or a whole image; its feature
    is the mean over the cells that it overlaps. The R regions of all images of the
    batch are related to each other, after their mean has been subtracted: without that,
    all regions of a detector look alike. Channels and sizes of maps may differ.

    After Park, Kim, Lu, Cho: "Relational Knowledge Distillation", CVPR 2019, arXiv
    1904.05068, which relates images by distances and angles; Tung, Mori:
    "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv 1907.09682, which
    relates images by cosines of whole maps, without centring; and the relations between
    instances of Dai et al.: "General Instance Distillation for Object Detection", CVPR
    2021, arXiv 2103.02340, which relates the regions where student and teacher differ
    most by normalised distances. Here the regions are those of the labels.

    A batch of less than three regions has no relations: it gives 0.

    Args:
        **base: `weight`, `schedule` and `share`, see `PairLoss`.

    Shape:
        - student: per level (N, C_s, H_s, W_s)
        - teacher: per level (N, C_t, H_t, W_t)
        - output: ()
    """

    truth: ClassVar[str] = 'boxes'
    instead: ClassVar[Mapping[str, str]] = {
        '': "taps with more than one channel; or type='RelationKD', relation='spatial'"
    }

    def over_levels(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        mask: Sequence[Tensor] | None,
        truth: GroundTruth | None = None,
    ) -> Tensor:
        """Return the mean over levels."""
        if student[0].dim() != 4 or teacher[0].dim() != 4 or truth is None:
            raise ShapeMismatchError(
                'RegionRelationKD: needs feature maps and ground-truth boxes',
                expected='levels of shape (N, C, H, W) on both sides',
                actual=f'student {tuple(student[0].shape)},'
                f' teacher {tuple(teacher[0].shape)}',
                fix="taps=dict(fpn='neck')",
            )
        losses = []
        for levels in zip(student, teacher, strict=True):
            ours, theirs = (relations(region_features(x, truth)) for x in levels)
            losses.append((ours - theirs).square().mean())
        return torch.stack(losses).mean()


def region_features(level: Tensor, truth: GroundTruth) -> Tensor:
    """Return the mean feature of each box, image by image, then of each whole image.

    Shape:
        - level: (N, C, H, W)
        - output: (M + N, C), M boxes in all
    """
    size = (level.shape[-2], level.shape[-1])
    found = []
    for image, boxes in zip(level, truth.boxes, strict=True):
        rows, columns = (
            cells.to(level.dtype) for cells in box_cells(boxes, truth.size, size)
        )
        count = (rows.sum(1) * columns.sum(1)).clamp_min(1)
        sums = torch.einsum('mh,chw,mw->mc', rows, image, columns)
        found.append(sums / count[:, None])
    return torch.cat([*found, level.mean((2, 3))])


def relations(features: Tensor) -> Tensor:
    """Return the cosines between centred features.

    All are 0 where there are less than three: two centred features are always opposite
    to each other.

    Shape:
        - features: (R, C)
        - output: (R, R)
    """
    centred = features - features.mean(0)
    # What rounding leaves of equal features has no direction.
    noise = LEAST * features.detach().norm(dim=1).mean()
    has_direction = (centred.norm(dim=1, keepdim=True) > noise) & (len(features) > 2)
    unit = l2_normalize(torch.where(has_direction, centred, 0.0), dim=1)
    return unit @ unit.T
