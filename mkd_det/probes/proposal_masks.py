"""Runs the mask head of the teacher on the student's positive proposals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.base import AdapterOutput
from ..heads.readers.masks import check_mask_heads, masks_of_regions
from ..registry import ADAPTERS
from .region_head import RegionHead


@ADAPTERS.register_module()
class ProposalMasks(RegionHead):
    """Runs the teacher's mask head on the regions whose masks the student learns.

    These are the student's positive proposals:

        taps=dict(pyramid='neck', mask_rois='roi_head.mask_roi_extractor:in1',
                  masks='roi_head.mask_head',
                  labels='roi_head.bbox_head.loss_cls:in1')
        adapters=dict(mask_regions=dict(
            type='ProposalMasks', student='mask_rois', teacher='t.pyramid'))
        terms=dict(loss_soft_masks=dict(
            type='ProposalMaskKD', student='masks', teacher='mask_regions.teacher',
            labels='labels'))

    Of a cascade it yields the logits of the mean of the masks of all stages, on the
    same regions, as in prediction; `stage` chooses one.

    Args:
        student: Shape of what the student's tap yields: regions of five numbers.
        teacher: Shape of each level of the teacher's neck.
        stage: Index of the stage of a cascade, from 0; None for all stages.

    Shape:
        - student: one level (M, 5): index of the image, x1, y1, x2, y2 in input pixels
        - teacher: maps (N, C, H, W)
        - output: one level of mask logits (M, K, H, W) of the teacher
    """

    @property
    def head(self) -> nn.Module | None:
        """None: masks are maps."""
        return None

    def bind(self, teacher: nn.Module, tap: Any, where: str) -> None:
        """Find the teacher's mask head."""
        super().bind(teacher, tap, where)
        check_mask_heads(teacher, f'{where}, teacher')

    def bind_student(self, student: nn.Module, tap: Any, where: str) -> None:
        """Check the masks that the teacher's are compared with."""
        check_mask_heads(student, f'{where}, student')

    @torch.no_grad()
    def forward(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> AdapterOutput:
        """Run the teacher's mask head on the student's regions."""
        assert self._teacher is not None
        model = self._teacher.module
        masks = masks_of_regions(model, teacher, student[0], self.stage)
        return AdapterOutput((), (masks,), {})
