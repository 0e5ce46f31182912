"""Masks of the second stage, compared on the student's positive proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import ConfigError, ShapeMismatchError, TeacherClassesError
from ...functional import binary_kl
from ...registry import LOSSES
from ..base import PairLoss


@LOSSES.register_module()
class ProposalMaskKD(PairLoss):
    r"""Compares the mask logits of the label's class on positive proposals.

    .. math:: \frac{\tau^2}{M H W} \sum_{m, h, w} \mathrm{BCE}(\sigma_s, \sigma_t)
        - \mathrm{BCE}(\sigma_t, \sigma_t), \quad \sigma = \sigma(z_{m y_m h w} / \tau)

    The student's own mask loss is the same cross entropy with hard targets (He et al.:
    "Mask R-CNN", ICCV 2017, arXiv 1703.06870); soft targets after Hinton et al., arXiv
    1503.02531. The entropy of the teacher is taken away, so that equal masks give 0. A
    side with one mask for all classes is compared by that one. `labels` are the targets
    of the student's own classification loss, for all of its proposals:
    `taps=dict(labels='roi_head.bbox_head.loss_cls:in1')`. In mmdet, the positive ones
    of them are in the order of the masks. Masks with the label -1 are left out. Without
    positives the loss is 0.

    Args:
        tau: Temperature.
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student: logits (M, K, H, W) or (M, 1, H, W)
        - teacher: logits of the same size, of `ProposalMasks`
        - labels: (R,), of which M are below the number of classes
        - output: ()
    """

    of_classes: ClassVar[bool] = True
    also: ClassVar[Mapping[str, str]] = {'labels': 'student'}

    def __init__(self, tau: float = 1.0, **base: Any) -> None:
        super().__init__(**base)
        if not tau > 0:
            raise ConfigError('ProposalMaskKD: tau must be above 0', actual=tau)
        self.tau = tau

    def over_levels(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        mask: Sequence[Tensor] | None,
        labels: Sequence[Tensor] = (),
    ) -> Tensor:
        """Return the mean over positive proposals and pixels."""
        shapes = [tuple(level.shape) for level in (*student, *teacher, *labels)]
        if len(shapes) != 3 or len(shapes[2]) != 1 or len(shapes[0]) < 2:
            raise ShapeMismatchError(
                'ProposalMaskKD: needs one level of masks per side, and the labels',
                expected='(M, K, H, W) twice, (R,)',
                actual=shapes,
                fix="student='masks', teacher='mask_regions.teacher', labels='labels',"
                " with taps=dict(masks='roi_head.mask_head',"
                " labels='roi_head.bbox_head.loss_cls:in1')",
            )
        s, t = student[0], teacher[0]
        _check_shapes(s, t)
        count = max(s.shape[1], t.shape[1])
        positive = labels[0][labels[0] < count]
        if count == 1 and len(positive) != len(s):  # one mask for all classes
            positive = torch.zeros(len(s), dtype=torch.long, device=s.device)
        if count > 1 and len(positive) != len(s):
            raise ShapeMismatchError(
                'ProposalMaskKD: the labels are not those of the masks',
                expected=f'{len(s)} labels below {count}, one for each mask',
                actual=len(positive),
                fix="taps=dict(labels='roi_head.bbox_head.loss_cls:in1'); of a cascade"
                " the same stage for all: 'roi_head.bbox_head.0.loss_cls:in1',"
                " 'roi_head.mask_head.0', 'roi_head.mask_roi_extractor.0:in1'",
            )
        known = positive >= 0
        s, t, positive = s[known], t[known], positive[known]
        if not len(s):
            return s.sum() * 0
        s, t = (_of_label(side, positive).unsqueeze(-1) for side in (s, t))
        return binary_kl(s, t, self.tau).mean()


def _check_shapes(student: Tensor, teacher: Tensor) -> None:
    """Raise unless the masks have one size, and one number of classes (or one mask)."""
    size, other = tuple(student.shape[2:]), tuple(teacher.shape[2:])
    if size != other or len(student) != len(teacher):
        raise ShapeMismatchError(
            'ProposalMaskKD: the masks of student and teacher differ in size',
            expected=f'{len(teacher)} masks of {other}, as the teacher',
            actual=f'{len(student)} masks of {size} in the student',
            fix='terms=dict(loss_soft_masks=dict(weight=0)), the term of the masks; or'
            ' roi_head.mask_roi_extractor.roi_layer.output_size and'
            ' train_cfg.rcnn.mask_size of the student as the teacher has them',
        )
    counts = student.shape[1], teacher.shape[1]
    if counts[0] != counts[1] and 1 not in counts:
        raise TeacherClassesError(
            'ProposalMaskKD: student and teacher have masks of different numbers of'
            ' classes',
            expected=f'{counts[1]} masks, as the teacher',
            actual=f'{counts[0]} in the student',
            fix='num_classes=... of both mask heads, as the data has them',
        )


def _of_label(masks: Tensor, labels: Tensor) -> Tensor:
    """Return the mask (M, H, W) of each proposal's label, or the one of all classes."""
    if masks.shape[1] == 1:
        return masks[:, 0]
    return masks[torch.arange(len(masks), device=masks.device), labels]
