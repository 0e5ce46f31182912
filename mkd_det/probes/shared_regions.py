"""Runs the second stages of student and teacher on the proposals of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from ..adapters.base import AdapterOutput
from ..errors import ConfigError, HeadKindError, TapNotFoundError
from ..heads.proposals import proposals_of, proposes, sample_proposals
from ..heads.readers.regions import box_head_of, run_box_heads
from ..registry import ADAPTERS
from ..structures import GroundTruth, LevelSpec
from .base import StudentModule
from .region_head import RegionHead

Proposals = Literal['student', 'teacher', 'union']


@ADAPTERS.register_module()
class SharedRegions(RegionHead):
    """Runs the box heads of both models on the same proposals.

    `RegionHead` takes the student's proposals. Those of the teacher look where the
    student does not look yet; the student's box head learns from them as well:

        taps=dict(pyramid='neck', rois='roi_head.bbox_roi_extractor:call')
        adapters=dict(regions=dict(
            type='SharedRegions', student='rois', teacher='t.pyramid'))
        terms=dict(loss_roi=dict(
            type='ProposalKD', student='regions.student', teacher='regions.teacher'))

    The student's proposals are those that its training has sampled. The teacher's are
    those of its prediction, sampled as the student's are: by its assigner and sampler,
    with as many positive ones. A step costs one more pass of the student's box head and
    the teacher's RPN.

    Args:
        student: Shape of what the student's tap yields, a call of its RoI extractor.
        teacher: Shape of each level of the teacher's neck.
        proposals: Whose: of the 'student', the 'teacher' or the 'union' of both.
        stage: Index of the stage of a cascade, from 0; None for all stages.

    Shape:
        - student: one level, maps (N, C, H, W) and regions (R, 5): index of the image,
          x1, y1, x2, y2 in input pixels
        - teacher: maps (N, C, H, W)
        - output: one level of each side: logits (R', K + 1), deltas (R', 4) or
          (R', 4K), and the regions (R', 5) that they start from
    """

    yields: ClassVar[tuple[str, ...]] = ('student', 'teacher')
    reads_calls: ClassVar[tuple[str, ...]] = ('student',)
    takes: ClassVar[tuple[str, ...]] = ('image_sizes', 'truth')

    def __init__(
        self,
        student: Sequence[LevelSpec],
        teacher: Sequence[LevelSpec],
        proposals: Proposals = 'union',
        stage: int | None = None,
    ) -> None:
        super().__init__(student, teacher, stage)
        if proposals not in get_args(Proposals):
            raise ConfigError(
                'SharedRegions: unknown proposals',
                actual=proposals,
                available=get_args(Proposals),
            )
        self.proposals = proposals
        self._student: StudentModule | None = None

    def _check_student(self, student: Sequence[LevelSpec]) -> None:
        """Shapes of a call say nothing; `bind_student` checks the tap."""

    def head_of(self, side: str) -> nn.Module | None:
        """Return the box head of the student or of the teacher."""
        if side == 'teacher' or self._student is None:
            return self.head
        return box_head_of(self._student.module, self.stage)

    def bind(self, teacher: nn.Module, tap: Any, where: str) -> None:
        """Find the teacher's box head and RPN."""
        super().bind(teacher, tap, where)
        if self.proposals != 'student' and not proposes(teacher):
            head = getattr(teacher, 'rpn_head', None)
            raise HeadKindError(
                f'{where}: the teacher has no RPN for proposals of its own',
                expected='an RPNHead',
                actual=None if head is None else type(head).__name__,
                fix="proposals='student'",
            )

    def bind_student(self, student: nn.Module, tap: Any, where: str) -> None:
        """Find the student's box head."""
        if not tap.whole or 'roi_extractor' not in tap.paths[0]:
            raise TapNotFoundError(
                f"{where}: it needs all that the student's RoI extractor is called"
                ' with',
                actual=str(tap),
                fix="taps=dict(rois='roi_head.bbox_roi_extractor:call'); of a cascade"
                " one stage, 'roi_head.bbox_roi_extractor.0:call'",
            )
        self._student = StudentModule(student)

    def forward(
        self,
        student: Sequence[Any],
        teacher: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]] | None = None,
        truth: GroundTruth | None = None,
    ) -> AdapterOutput:
        """Run both box heads on the proposals."""
        assert self._teacher is not None and self._student is not None
        *features, regions = student[0]
        if self.proposals != 'student':
            theirs = self._sample(teacher, regions, image_sizes, truth)
            mine = [] if self.proposals == 'teacher' else [regions.detach()]
            regions = torch.cat([*mine, theirs])
        given = regions, self.stage, image_sizes
        ours = run_box_heads(self._student.module, features, *given)
        with torch.no_grad():
            level = run_box_heads(self._teacher.module, teacher, *given)
        return AdapterOutput((ours,), (level,), {})

    def _sample(
        self,
        features: Sequence[Tensor],
        regions: Tensor,
        image_sizes: Sequence[tuple[int, int]] | None,
        truth: GroundTruth | None,
    ) -> Tensor:
        """Return proposals of the teacher (R, 5), of images with labels."""
        assert self._teacher is not None and self._student is not None
        if image_sizes is None:  # of the plan's image, which has no padding
            spec = self.teacher_specs[0]
            height, width = (side * (spec.stride or 1) for side in spec.size)
            image_sizes = [(height, width)] * len(features[0])
        nothing = regions.new_zeros(0, 4), regions.new_zeros(0, dtype=torch.long)
        known = (
            zip(truth.boxes, truth.labels) if truth else [nothing] * len(image_sizes)
        )
        found = proposals_of(self._teacher.module, features, image_sizes)
        sampled = []
        for image, (proposals, objects) in enumerate(zip(found, known)):
            boxes = sample_proposals(
                self._student.module, proposals, *objects, self.stage
            )
            index = boxes.new_full((len(boxes), 1), image)
            sampled.append(torch.cat([index, boxes], 1))
        return torch.cat(sampled).to(regions)
