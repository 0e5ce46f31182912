"""Runs the second stage of the teacher on the student's proposals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..adapters.base import AdapterOutput, FrozenModule
from ..errors import ShapeMismatchError, TapNotFoundError
from ..heads.proofs.regions import prove_logits
from ..heads.readers.regions import (
    RegionReader,
    box_head_of,
    check_box_heads,
    knows_box_heads,
    logits_of_regions,
)
from ..registry import ADAPTERS
from ..structures import LevelSpec
from .base import Probe


@ADAPTERS.register_module()
class ProposalHead(Probe):
    """Runs the teacher's box head on the regions that the student learns from.

    Two detectors propose different regions, whose scores cannot be compared. So the
    teacher's box head scores the student's sampled proposals, in the teacher's own
    features (as Zhao et al. do for detectors: "Decoupled Knowledge Distillation",
    CVPR 2022, arXiv 2203.08679):

        taps=dict(pyramid='neck', rois='roi_head.bbox_roi_extractor:in1',
                  classes='roi_head.bbox_head.fc_cls')
        adapters=dict(proposals=dict(
            type='ProposalHead', student='rois', teacher='t.pyramid'))
        terms=dict(loss_roi=dict(
            type='SoftOutputKD', student='classes', teacher='proposals.teacher'))

    For a cascade it yields the mean of its stages' logits on these regions; in
    prediction each stage gets regions that the one before it has refined. The
    background is the last class. A step costs one more pass of the teacher's box head.

    Args:
        student: Shape of what the student's tap yields: regions of five numbers.
        teacher: Shape of each level of the teacher's neck.

    Shape:
        - student: one level (R, 5): index of the image, x1, y1, x2, y2 in input pixels
        - teacher: maps (N, C, H, W)
        - output: one level of logits (R, K + 1) of the teacher
    """

    yields: ClassVar[tuple[str, ...]] = ('teacher',)

    def __init__(
        self, student: Sequence[LevelSpec], teacher: Sequence[LevelSpec]
    ) -> None:
        super().__init__(student, teacher)
        self._check_student(student)
        self._teacher: FrozenModule | None = None

    def _check_student(self, student: Sequence[LevelSpec]) -> None:
        if [spec.channels for spec in student] == [5, 5]:
            raise ShapeMismatchError(
                f'{type(self).__name__}: the student takes its regions twice in each'
                ' step, as Double-Head R-CNN does',
                expected='a second stage that takes them once',
                actual=f'{len(student)} levels: ' + ' '.join(map(str, student)),
                fix='terms that compare features or the RPN, without this adapter; such'
                ' a detector can be the teacher',
            )
        if [spec.channels for spec in student] != [5]:
            raise ShapeMismatchError(
                f'{type(self).__name__}: the student must yield its regions, once in'
                ' each step',
                expected='one level of 5 numbers: image, x1, y1, x2, y2',
                actual=f'{len(student)} levels: ' + ' '.join(map(str, student)),
                fix="taps=dict(rois='roi_head.bbox_roi_extractor:in1'); of a cascade"
                " one stage, 'roi_head.bbox_roi_extractor.0:in1'",
            )

    def bind(self, teacher: nn.Module, tap: Any, where: str) -> None:
        """Find the teacher's box head."""
        check_box_heads(teacher, f'{where}, teacher')
        last = 'neck' if teacher.with_neck else 'backbone'
        if tap.inputs or tap.paths != (last,):
            raise TapNotFoundError(
                f"{where}: the teacher's box head reads what its {last} yields",
                actual=str(tap),
                available=[last],
            )
        self._teacher = FrozenModule(teacher)
        if self.head is None:  # else the reader of the head that is yielded proves it
            maps = [torch.zeros(1, s.channels, *s.size) for s in self.teacher_specs]
            head = box_head_of(teacher)
            like = next(head.parameters())
            given = [level.to(like) for level in maps]
            RegionReader(head).prove(teacher, head, given, f'{where}, teacher')

    def bind_student(self, student: nn.Module, tap: Any, where: str) -> None:
        """Check the class logits that the teacher's are compared with."""
        if self.head is None and knows_box_heads(student):
            prove_logits(student, f'{where}, student')

    @torch.no_grad()
    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor]
    ) -> AdapterOutput:
        """Run the teacher's box head on the student's regions."""
        assert self._teacher is not None
        stages = logits_of_regions(self._teacher.module, teacher, student[0])
        return AdapterOutput((), (torch.stack(stages).mean(0),), {})
