"""Soft outputs: classes and boxes of the heads themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from ..errors import ConfigError, HeadKindError, ShapeMismatchError
from ..functional import (
    box_distribution_kl,
    class_factors,
    giou_distance,
    logit_rows,
    quality_bce,
    softmax_kl,
    weighted_average,
)
from ..registry import LOSSES
from ..structures import DenseOutput, Level
from .base import PairLoss

Classes = Literal['auto', 'sigmoid', 'softmax']
Kind = Literal['sigmoid', 'softmax']
Boxes = Literal['auto', 'distribution', 'giou', 'off']


@LOSSES.register_module()
class SoftOutputKD(PairLoss):
    r"""The student says what the teacher says, doubts included.

    Classes of softmax heads: :math:`\tau^2 \mathrm{KL}(p_t \| p_s)`, mean over
    samples. Hinton, Vinyals, Dean: "Distilling the Knowledge in a Neural Network",
    NIPS workshop 2014, arXiv 1503.02531. PyTorch's 'mean' would divide by the number
    of classes too, as mmdet's own loss does.

    Classes of sigmoid heads: per class and place
    :math:`|\sigma_t - \sigma_s|^\beta \mathrm{BCE}(\sigma_s, \sigma_t)`. Wang et al.:
    "CrossKD: Cross-Head Knowledge Distillation for Object Detection", CVPR 2024, arXiv
    2306.11369, whose code divides by the student's number of assigned objects; here,
    see below.

    Box distributions: :math:`\tau^2 \mathrm{KL}` over the bins of each side, mean of
    the four, weighted by how sure the teacher is of an object. Zheng et al.:
    "Localization Distillation for Dense Object Detection", CVPR 2022, arXiv
    2102.12252, whose code also divides by the number of bins and has weight 0.25; the
    paper's valuable region is left out. Heads without distributions: 1 - GIoU of the
    decoded boxes (Rezatofighi et al., CVPR 2019, arXiv 1902.09630), same weights.

    Every part of a dense head is summed over the places of the batch and divided by
    the sum of :math:`f = \max_c \sigma_t` over them (of foreground classes for
    softmax heads, whose last class is the background), but by no less than one per
    image: so it does not grow with the image, and is finite without objects. The sum
    is this process's own; ranks are averaged as gradients are.

    Args:
        classes: 'sigmoid' (independent classes), 'softmax' (one of them), or 'auto':
            what `kind` says; without it, sigmoid for `DenseOutput` and softmax for
            logits.
        kind: What the head is. The plan fills it in where it can be read.
        tau: Temperature of the classes.
        beta: Exponent of the disagreement in the sigmoid form: 0, or at least 1.
        boxes: 'distribution', 'giou', 'off', or 'auto': the first of them that both
            heads offer.
        box_tau: Temperature of the box distributions.
        class_weight: Factor on the classes' part.
        box_weight: Factor on the boxes' part.
        focus: Exponent of f in the weights and the divisor. Above 1, places where the
            teacher is unsure count less.
        balance: From 0 to 1, how far rare classes catch up with frequent ones, in the
            class part, the weights of the boxes and the divisor. Class c counts
            :math:`n_c^{-b}`, with :math:`n_c` the teacher's confidence in c summed
            over the batch, but no less than one per image; 1 gives every class
            the same say, as distributions over positions do (Shu et al., ICCV 2021,
            arXiv 2011.13256). For dense sigmoid heads.
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student, teacher: one `DenseOutput` of (N, P, C) scores, or, per level,
          logits (N, K), (N, L, K) or (N, K, H, W)
        - mask: (N, P) or anything of as many entries for `DenseOutput`; for logits,
          as many entries as rows
        - output: dict(cls=(), box=()) for `DenseOutput`, () for logits
    """

    reads: ClassVar[str] = 'outputs'
    weighs_samples: ClassVar[bool] = True

    def __init__(
        self,
        classes: Classes = 'auto',
        kind: Kind | None = None,
        tau: float = 1.0,
        beta: float = 1.0,
        boxes: Boxes = 'auto',
        box_tau: float = 10.0,
        class_weight: float = 1.0,
        box_weight: float = 0.25,
        focus: float = 1.0,
        balance: float = 0.0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self._check(classes, kind, tau, beta, boxes, box_tau, class_weight, box_weight)
        if not focus >= 0 or class_weight == box_weight == 0:
            raise ConfigError(
                'SoftOutputKD: focus must be >= 0, and one of the weights above 0',
                actual=(focus, class_weight, box_weight),
            )
        softmax = 'softmax' in (classes, kind)
        if not 0 <= balance <= 1 or (balance and softmax):
            raise ConfigError(
                'SoftOutputKD: balance must be from 0 to 1, and 0 for softmax heads',
                actual=balance,
                fix='balance=0' if softmax else 'balance=1.0',
            )
        self.classes = kind if classes == 'auto' else classes
        self.tau = tau
        self.beta = beta
        self.boxes = boxes
        self.box_tau = box_tau
        self.class_weight = class_weight
        self.box_weight = box_weight
        self.focus = focus
        self.balance = balance

    @staticmethod
    def _check(
        classes: str,
        kind: str | None,
        tau: float,
        beta: float,
        boxes: str,
        box_tau: float,
        class_weight: float,
        box_weight: float,
    ) -> None:
        for name, value, known in (
            ('classes', classes, get_args(Classes)),
            ('kind', kind, (None, *get_args(Kind))),
            ('boxes', boxes, get_args(Boxes)),
        ):
            if value not in known:
                raise ConfigError(
                    f'SoftOutputKD: unknown {name}',
                    actual=value,
                    available=[str(k) for k in known],
                )
        if not (tau > 0 and box_tau > 0):
            raise ConfigError(
                'SoftOutputKD: temperatures must be above 0', actual=(tau, box_tau)
            )
        if beta != 0 and not beta >= 1:
            raise ConfigError(
                'SoftOutputKD: beta must be 0 or at least 1', actual=beta, fix='beta=1'
            )
        if not (class_weight >= 0 and box_weight >= 0):
            raise ConfigError(
                'SoftOutputKD: class_weight and box_weight must be numbers >= 0',
                actual=(class_weight, box_weight),
            )
        if kind is not None and classes not in ('auto', kind):
            raise HeadKindError(
                f'SoftOutputKD: a {classes} loss on a {kind} head',
                expected=f'classes={kind!r}',
                actual=f'classes={classes!r}',
                fix="classes='auto'",
            )

    def needs_boxes(self, student: Any, teacher: Any) -> bool:
        """Not where distributions are compared, or nothing."""
        if self.boxes == 'off' or self.box_weight == 0:
            return False
        return self.boxes == 'giou' or not _equal_bins(student, teacher)

    def over_levels(
        self,
        student: list[Level],
        teacher: list[Level],
        mask: Sequence[Tensor] | None,
    ) -> Tensor | dict[str, Tensor]:
        """Parts of a dense head, or the mean over levels of logits."""
        s, t = student[0], teacher[0]
        if isinstance(s, DenseOutput) and isinstance(t, DenseOutput):
            return self._dense(s, t, mask[0] if mask else None)
        return super().over_levels(student, teacher, mask)

    def pair(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """The loss of one level of logits; softmax unless told otherwise."""
        _same(student, teacher, 'logits')
        if self.balance:
            raise ConfigError(
                'SoftOutputKD: balance is for dense heads', fix='balance=0'
            )
        images = len(teacher)
        student, teacher = logit_rows(student), logit_rows(teacher)
        weights = None if mask is None else mask.reshape(-1)
        if self.classes != 'sigmoid':
            loss = softmax_kl(student, teacher, self.tau)
            return self.class_weight * weighted_average(loss, weights)
        places = teacher.sigmoid().amax(-1) ** self.focus
        loss = quality_bce(student, teacher, self.beta, self.tau).sum(-1)
        if weights is not None:
            places, loss = places * weights, loss * weights
        return self.class_weight * loss.sum() / places.sum().clamp_min(images)

    def _dense(
        self, student: DenseOutput, teacher: DenseOutput, mask: Tensor | None
    ) -> dict[str, Tensor]:
        """Both parts of a dense head; sigmoid unless told otherwise."""
        _same(student.scores, teacher.scores, 'class scores')
        if mask is not None:
            mask = mask.reshape(teacher.scores.shape[:2])
        places, loss = self._class_places(student.scores, teacher.scores, mask)
        if mask is not None:
            places, loss = places * mask, loss * mask
        divisor = places.sum().clamp_min(len(places))
        parts = {'cls': self.class_weight * loss.sum() / divisor}
        distance = self._box_distance(student, teacher)
        if distance is not None:
            parts['box'] = self.box_weight * (places * distance).sum() / divisor
        return parts

    def _class_places(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Weight (the teacher's confidence) and class loss of each place, (N, P)."""
        if self.classes == 'softmax':
            sure = teacher.softmax(-1)[..., :-1]
            return sure.amax(-1) ** self.focus, softmax_kl(student, teacher, self.tau)
        sure = teacher.sigmoid() ** self.focus
        loss = quality_bce(student, teacher, self.beta, self.tau)
        if self.balance:
            factors = class_factors(sure, self.balance, mask)
            sure, loss = sure * factors, loss * factors
        return sure.amax(-1), loss.sum(-1)

    def _box_distance(
        self, student: DenseOutput, teacher: DenseOutput
    ) -> Tensor | None:
        """Distance of the boxes of each place, (N, P); None where not compared."""
        if self.boxes == 'off' or self.box_weight == 0:
            return None
        s, t = student.bins, teacher.bins
        if self.boxes != 'giou' and s is not None and t is not None:
            if _equal_bins(student, teacher):
                return box_distribution_kl(s, t, self.box_tau)
            if self.boxes == 'distribution':
                _same(s, t, 'box distributions')
        if self.boxes != 'distribution':
            s, t = student.boxes, teacher.boxes
            if s is not None and t is not None:
                _same(s, t, 'boxes')
                return giou_distance(s, t)
        if self.boxes == 'auto':
            return None
        raise HeadKindError(
            f'SoftOutputKD: boxes={self.boxes!r}, but not both heads yield them',
            expected='box distributions' if self.boxes == 'distribution' else 'boxes',
            actual=f'student {_offer(student)}; teacher {_offer(teacher)}',
            fix="boxes='auto'",
        )


def _equal_bins(student: DenseOutput, teacher: DenseOutput) -> bool:
    s, t = student.bins, teacher.bins
    return s is not None and t is not None and s.shape == t.shape


def _offer(output: DenseOutput) -> str:
    names = [n for n in ('boxes', 'bins') if getattr(output, n) is not None]
    return ', '.join(['scores', *names])


def _same(student: Tensor, teacher: Tensor, what: str) -> None:
    if student.shape != teacher.shape:
        raise ShapeMismatchError(
            f'SoftOutputKD: {what} of student and teacher differ in shape',
            expected=f'{tuple(teacher.shape)} as the teacher',
            actual=f'{tuple(student.shape)}',
        )
