"""Runs the second stage of the teacher on the student's proposals, boxes included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..adapters.base import AdapterOutput
from ..errors import ConfigError
from ..heads.readers.regions import box_head_of, check_box_heads, run_box_heads
from ..registry import ADAPTERS
from ..structures import LevelSpec
from .proposal_head import ProposalHead


@ADAPTERS.register_module()
class RegionHead(ProposalHead):
    """Runs the teacher's box head on the student's proposals, for classes and boxes.

    What it yields is read as the output of a whole head, against the whole box head of
    the student:

        taps=dict(pyramid='neck', rois='roi_head.bbox_roi_extractor:in1',
                  box_head='roi_head.bbox_head')
        adapters=dict(regions=dict(
            type='RegionHead', student='rois', teacher='t.pyramid'))
        terms=dict(loss_roi=dict(
            type='ProposalKD', student='box_head', teacher='regions.teacher'))

    Chen, Choi, Yu, Han, Chandraker: "Learning Efficient Object Detection Models with
    Knowledge Distillation", NIPS 2017, compare both stages on the student's regions. A
    cascade is run once, as in prediction: each stage refines the regions for the next
    one and clips them to the image, the classes are the mean over the stages, the boxes
    those of the last. For a student that is a cascade, a probe for each stage runs the
    teacher's stage of that number on the regions of the student's:

        taps=dict(rois_1='roi_head.bbox_roi_extractor.1:in1', ...)
        adapters=dict(regions_1=dict(
            type='RegionHead', student='rois_1', teacher='t.pyramid', stage=1))

    Args:
        student: Shape of what the student's tap yields: regions of five numbers.
        teacher: Shape of each level of the teacher's neck.
        stage: Index of the stage of a cascade, from 0; None for all stages.

    Shape:
        - student: one level (R, 5): index of the image, x1, y1, x2, y2 in input pixels
        - teacher: maps (N, C, H, W)
        - output: one level of the teacher: logits (R, K + 1), deltas (R, 4) or
          (R, 4K), and the regions (R, 5) that they start from
    """

    takes: ClassVar[tuple[str, ...]] = ('image_sizes',)

    def __init__(
        self,
        student: Sequence[LevelSpec],
        teacher: Sequence[LevelSpec],
        stage: int | None = None,
    ) -> None:
        super().__init__(student, teacher)
        self.stage = stage

    @property
    def head(self) -> nn.Module | None:
        """The box head of the teacher that yields the boxes."""
        if self._teacher is None:
            return None
        return box_head_of(self._teacher.module, self.stage)

    def bind(self, teacher: nn.Module, tap: Any, where: str) -> None:
        """Find the teacher's box head."""
        check_box_heads(teacher, f'{where}, teacher')
        check_stage(teacher, self.stage, where)
        super().bind(teacher, tap, where)

    @torch.no_grad()
    def forward(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> AdapterOutput:
        """Run the teacher's box head on the student's regions."""
        assert self._teacher is not None
        model = self._teacher.module
        level = run_box_heads(model, teacher, student[0], self.stage, image_sizes)
        return AdapterOutput((), (level,), {})


def check_stage(teacher: Any, stage: int | None, where: str) -> None:
    """Raise ConfigError unless the teacher has a stage of that number."""
    count = getattr(teacher.roi_head, 'num_stages', 0)
    if stage is not None and not 0 <= stage < count:
        raise ConfigError(
            f'{where}: the teacher has no stage {stage}',
            expected=f'stage from 0 to {count - 1}' if count else 'no stage',
            actual=f'stage={stage}',
            fix='without stage: all stages of the teacher',
        )
