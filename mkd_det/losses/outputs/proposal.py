"""Classes and boxes of the second stage, compared on the student's proposals."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from ...errors import ConfigError, HeadKindError, ShapeMismatchError
from ...functional import (
    boxes_of_class,
    giou_distance,
    relative_l1,
    softmax_kl,
    weighted_average,
)
from ...registry import LOSSES
from ...structures import HeadOutput
from ..base import PairLoss, check_focus

RegionBoxes = Literal['giou', 'l1', 'off']


@LOSSES.register_module()
class ProposalKD(PairLoss):
    r"""Compares classes and boxes of a second stage, proposal by proposal.

    .. math:: \frac{\sum_r w_r \, \tau^2 \mathrm{KL}(p^t_r \| p^s_r)}{\sum_r w_r}
        \qquad \text{and} \qquad
        \frac{\sum_r f_r^2 \, d(b^s_{r}, b^t_{r})}{\max(1, \sum_r f_r^2)}

    with :math:`w_r = 1 + (w - 1) \, p^t_{r, background}` and the teacher's confidence
    :math:`f_r`, its largest probability of an object. Boxes are decoded and belong to
    the object class that the teacher finds likeliest, on both sides; d is 1 - GIoU
    (Rezatofighi et al., CVPR 2019, arXiv 1902.09630) or the L1 distance of the sides
    relative to the teacher's box. Codings of the boxes may differ, and so may the
    number of boxes of a region: one for each class, or one for all.

    Chen, Choi, Yu, Han, Chandraker: "Learning Efficient Object Detection Models with
    Knowledge Distillation", NIPS 2017; soft classes after Hinton et al., arXiv
    1503.02531. They give the background the weight 1.5 inside of the sum over classes,
    which is then not least where student and teacher agree: here it weighs proposals.
    Their box loss is a bound on the student's error by the teacher's; here the
    student follows the teacher.

    Args:
        tau: Temperature of the classes.
        background: Weight w of the background, above 0; objects have 1.
        boxes: 'giou', 'l1' or 'off'.
        class_weight: Factor on the classes' part.
        box_weight: Factor on the boxes' part.
        focus: Exponent of f in the weights of the boxes and their divisor.
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student, teacher: one `HeadOutput` of (N, P, K + 1) scores, the background
          last, and boxes (N, P, 4), (N, P, 1, 4) or (N, P, K, 4)
        - mask: (N, P), how much each proposal counts
        - output: dict(cls=(), box=()), those whose weight is not 0
    """

    reads: ClassVar[str] = 'outputs'

    def __init__(
        self,
        tau: float = 1.0,
        background: float = 1.5,
        boxes: RegionBoxes = 'giou',
        class_weight: float = 1.0,
        box_weight: float = 1.0,
        focus: float = 2.0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if boxes not in get_args(RegionBoxes):
            raise ConfigError(
                'ProposalKD: unknown boxes',
                actual=boxes,
                available=get_args(RegionBoxes),
            )
        if not (tau > 0 and background > 0):
            raise ConfigError(
                'ProposalKD: tau and background must be above 0',
                actual=(tau, background),
            )
        if not (class_weight >= 0 and box_weight >= 0):
            raise ConfigError(
                'ProposalKD: class_weight and box_weight must be numbers >= 0',
                actual=(class_weight, box_weight),
            )
        check_focus('ProposalKD', focus)
        self.focus = focus
        self.tau = tau
        self.background = background
        self.boxes = 'off' if box_weight == 0 else boxes
        self.class_weight = class_weight
        self.box_weight = box_weight

    def needs_boxes(self, student: Any, teacher: Any) -> bool:
        """Return whether boxes are compared."""
        return self.boxes != 'off'

    def pair(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Raise: logits alone have no boxes."""
        raise HeadKindError(
            'ProposalKD: reads the output of whole box heads, not logits',
            expected="student='box_head', teacher='regions.teacher'",
            actual=f'tensors of shapes {tuple(student.shape)}, {tuple(teacher.shape)}',
            fix="taps=dict(box_head='roi_head.bbox_head'), and the adapter RegionHead;"
            ' recipes soft_two_stage, mkd_two_stage',
        )

    def outputs(
        self, student: HeadOutput, teacher: HeadOutput, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the class part and the box part."""
        if student.scores.shape != teacher.scores.shape:
            raise ShapeMismatchError(
                'ProposalKD: class scores of student and teacher differ in shape',
                expected=f'{tuple(teacher.scores.shape)} as the teacher',
                actual=f'{tuple(student.scores.shape)}',
            )
        probabilities = teacher.scores.softmax(-1)
        confidence, likely = probabilities[..., :-1].max(-1)
        confidence = confidence**self.focus
        weights = 1 + (self.background - 1) * probabilities[..., -1]
        if mask is not None:
            mask = mask.reshape(confidence.shape)
            confidence, weights = confidence * mask, weights * mask
        loss = softmax_kl(student.scores, teacher.scores, self.tau)
        parts = {}
        if self.class_weight:
            parts['cls'] = self.class_weight * weighted_average(loss, weights)
        if self.boxes != 'off':
            distance = self._distance(student, teacher, likely)
            divisor = confidence.sum().clamp_min(len(confidence))
            parts['box'] = self.box_weight * (confidence * distance).sum() / divisor
        return parts

    def _distance(
        self, student: HeadOutput, teacher: HeadOutput, classes: Tensor
    ) -> Tensor:
        """Return the distance of the boxes of each proposal, (N, P)."""
        s, t = student.boxes, teacher.boxes
        if s is None or t is None:
            raise HeadKindError(
                'ProposalKD: the boxes of the '
                + ('student' if s is None else 'teacher')
                + ' cannot be decoded',
                expected='a box head with a DeltaXYWHBBoxCoder',
                fix="boxes='off' in the term",
            )
        s, t = (boxes_of_class(boxes, classes) for boxes in (s, t))
        return giou_distance(s, t) if self.boxes == 'giou' else relative_l1(s, t)
