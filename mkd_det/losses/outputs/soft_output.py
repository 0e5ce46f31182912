"""Soft outputs: class scores and boxes of heads, logits of classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from ...errors import ConfigError, HeadKindError, ShapeMismatchError
from ...functional import (
    box_distribution_kl,
    boxes_of_class,
    giou_distance,
    logit_rows,
    quality_bce,
    softmax_kl,
    weighted_average,
)
from ...registry import LOSSES
from ...structures import HeadOutput
from ..base import Activation, PairLoss, check_focus
from .class_balance import ClassBalance

Classes = Literal['auto', 'sigmoid', 'softmax']
Boxes = Literal['auto', 'distribution', 'giou', 'off']


@LOSSES.register_module()
class SoftOutputKD(PairLoss):
    r"""Soft-output distillation for class scores and boxes.

    Classes of softmax heads: :math:`\tau^2 \mathrm{KL}(p_t \| p_s)`, mean over
    samples. Hinton, Vinyals, Dean: "Distilling the Knowledge in a Neural Network",
    NIPS workshop 2014, arXiv 1503.02531. PyTorch's 'mean' would divide by the number
    of classes too, as mmdet's own loss does.

    Classes of sigmoid heads: per class and place
    :math:`|\sigma_t - \sigma_s|^\beta \mathrm{BCE}(\sigma_s, \sigma_t)`. Wang et al.:
    "CrossKD: Cross-Head Knowledge Distillation for Object Detection", CVPR 2024, arXiv
    2306.11369, whose code divides by the student's number of assigned objects; for the
    divisor here see below.

    Box distributions: :math:`\tau^2 \mathrm{KL}` over the bins of each side, mean of
    the four sides, weighted by the teacher's confidence f (below). Zheng et al.:
    "Localization Distillation for Dense Object Detection", CVPR 2022, arXiv
    2102.12252, whose code also divides by the number of bins and has weight 0.25; the
    paper's valuable region is not used here (see `LD`). Heads without distributions:
    1 - GIoU of the decoded boxes (Rezatofighi et al., CVPR 2019, arXiv 1902.09630),
    with the same weights.

    Every part of a head's output is summed over its rows (places, regions) and divided
    by the sum of :math:`f^2` over them, but by no less than one per image, with f the
    teacher's confidence, :math:`\max_c \sigma_t` (over foreground classes for softmax
    heads, whose last class is the background). So it does not grow with the image, and
    is finite without objects. Squared, confidence counts objects: thousands of places
    of background with a confidence of 0.03 do not add up to an object, as they do in
    the sum of f. The gradient of the class part at the start is :math:`f^2` as well.
    The sum is that of this process; ranks are averaged as gradients are.

    Args:
        classes: 'sigmoid' (independent classes), 'softmax' (exclusive classes), or
            'auto': as `activation` says; without it, sigmoid for `HeadOutput` and
            softmax for logits.
        activation: What the class logits of the heads are for. The plan fills it in.
        tau: Temperature of the classes.
        beta: Exponent of the disagreement in the sigmoid form: 0, or at least 1.
        boxes: 'distribution', 'giou', 'off', or 'auto': the first of them that both
            heads offer.
        box_tau: Temperature of the box distributions.
        class_weight: Factor on the classes' part.
        box_weight: Factor on the boxes' part.
        focus: Exponent of f in the weights of the boxes and in the divisor. At 1, the
            background counts by its number of places.
        balance: How much more objects of rare classes count, from 0 to 1, in classes
            and boxes. An object of class c counts :math:`n_c^{-b}`, with :math:`n_c`
            how much of the class the teacher has seen, mean over the batches so far. At
            1, over a training, all classes have the same say: objects of a class that
            is rarer by ten count ten times as much, down to a twentieth of the mean
            class. Background counts as it is, see `ClassBalance`. For sigmoid heads.
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student, teacher: one `HeadOutput` of (N, P, C) scores, or, per level,
          logits (N, K), (N, L, K) or (N, K, H, W)
        - mask: (N, P) or anything of as many entries for `HeadOutput`; for logits,
          as many entries as rows
        - output: dict(cls=(), box=()) for `HeadOutput`, those whose weight is not 0; ()
          for logits
    """

    reads: ClassVar[str] = 'outputs'
    weighs_samples: ClassVar[bool] = True
    instead: ClassVar[Mapping[str, str]] = {
        '': "classes='sigmoid', as one class has no other to exclude",
        'box': "boxes='giou' for heads whose distribution has one bin; or box_weight=0",
    }

    def __init__(
        self,
        classes: Classes = 'auto',
        activation: Activation | None = None,
        tau: float = 1.0,
        beta: float = 1.0,
        boxes: Boxes = 'auto',
        box_tau: float = 10.0,
        class_weight: float = 1.0,
        box_weight: float = 0.35,
        focus: float = 2.0,
        balance: float = 0.0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self._check_names(classes, activation, boxes)
        self._check_numbers(tau, beta, box_tau, class_weight, box_weight)
        check_focus('SoftOutputKD', focus)
        if class_weight == box_weight == 0:
            raise ConfigError(
                'SoftOutputKD: one of the weights must be above 0',
                actual=(class_weight, box_weight),
            )
        softmax = 'softmax' in (classes, activation)
        if not 0 <= balance <= 1 or (balance and softmax):
            raise ConfigError(
                'SoftOutputKD: balance must be from 0 to 1, and 0 for softmax heads',
                actual=balance,
                fix='balance=0' if softmax else 'balance=1.0',
            )
        self.classes = activation if classes == 'auto' else classes
        self.tau = tau
        self.beta = beta
        self.boxes = boxes
        self.box_tau = box_tau
        self.class_weight = class_weight
        self.box_weight = box_weight
        self.focus = focus
        self.balance = ClassBalance(balance) if balance else None

    @staticmethod
    def _check_names(classes: str, activation: str | None, boxes: str) -> None:
        for name, value, known in (
            ('classes', classes, get_args(Classes)),
            ('activation', activation, (None, *get_args(Activation))),
            ('boxes', boxes, get_args(Boxes)),
        ):
            if value not in known:
                raise ConfigError(
                    f'SoftOutputKD: unknown {name}',
                    actual=value,
                    available=[str(k) for k in known],
                )
        if activation is not None and classes not in ('auto', activation):
            raise HeadKindError(
                f'SoftOutputKD: a {classes} loss on a {activation} head',
                expected=f'classes={activation!r}',
                actual=f'classes={classes!r}',
                fix="classes='auto'",
            )

    @staticmethod
    def _check_numbers(
        tau: float, beta: float, box_tau: float, class_weight: float, box_weight: float
    ) -> None:
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

    def needs_boxes(self, student: Any, teacher: Any) -> bool:
        """Return whether boxes are compared decoded."""
        if self.boxes == 'off' or self.box_weight == 0:
            return False
        return self.boxes == 'giou' or not _equal_bins(student, teacher)

    def left_out(self, student: Any, teacher: Any) -> str:
        """Return 'boxes' where both heads were to be compared by boxes, and are not."""
        asked = self.boxes != 'off' and self.box_weight > 0
        return 'boxes' * (asked and self._box_distance(student, teacher) is None)

    def pair(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Return the loss of one level of logits; softmax by default."""
        _same(student, teacher, 'logits')
        if self.balance is not None:
            raise ConfigError(
                'SoftOutputKD: balance is for the output of heads', fix='balance=0'
            )
        images = len(teacher)
        student, teacher = logit_rows(student), logit_rows(teacher)
        weights = None if mask is None else mask.reshape(-1)
        if self.classes != 'sigmoid':
            loss = softmax_kl(student, teacher, self.tau)
            return self.class_weight * weighted_average(loss, weights)
        confidence = teacher.sigmoid().amax(-1) ** self.focus
        loss = quality_bce(student, teacher, self.beta, self.tau).sum(-1)
        if weights is not None:
            confidence, loss = confidence * weights, loss * weights
        return self.class_weight * loss.sum() / confidence.sum().clamp_min(images)

    def outputs(
        self, student: HeadOutput, teacher: HeadOutput, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the class part and the box part of two heads; sigmoid by default."""
        _same(student.scores, teacher.scores, 'class scores')
        if mask is not None:
            mask = mask.reshape(teacher.scores.shape[:2])
        confidence, weight, loss = self._class_rows(
            student.scores, teacher.scores, mask
        )
        if mask is not None:
            confidence, weight, loss = confidence * mask, weight * mask, loss * mask
        divisor = confidence.sum().clamp_min(len(confidence))
        parts = {}
        if self.class_weight:
            parts['cls'] = self.class_weight * loss.sum() / divisor
        distance = self._box_distance(student, teacher)
        if distance is not None:
            parts['box'] = self.box_weight * (weight * distance).sum() / divisor
        return parts

    def _class_rows(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what each row counts, its weight and its class loss, (N, P) each.

        The weight is what it counts, times the factor of its class.
        """
        if self.classes == 'softmax':
            confidence = teacher.softmax(-1)[..., :-1].amax(-1) ** self.focus
            return confidence, confidence, softmax_kl(student, teacher, self.tau)
        sigma = teacher.sigmoid()
        by_class = sigma**self.focus
        confidence = by_class.amax(-1)
        loss = quality_bce(student, teacher, self.beta, self.tau)
        if self.balance is None:
            return confidence, confidence, loss.sum(-1)
        factors = self.balance(sigma, by_class, mask)
        return confidence, (by_class * factors).amax(-1), (loss * factors).sum(-1)

    def _box_distance(self, student: HeadOutput, teacher: HeadOutput) -> Tensor | None:
        """Return the distance of the boxes of each row, (N, P); None for none."""
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
                if max(s.dim(), t.dim()) == 4:  # a box for each class but background
                    likely = teacher.scores[..., :-1].argmax(-1)
                    s, t = (boxes_of_class(boxes, likely) for boxes in (s, t))
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


def _equal_bins(student: HeadOutput, teacher: HeadOutput) -> bool:
    s, t = student.bins, teacher.bins
    return s is not None and t is not None and s.shape == t.shape


def _offer(output: HeadOutput) -> str:
    names = [n for n in ('boxes', 'bins') if getattr(output, n) is not None]
    return ', '.join(['scores', *names])


def _same(student: Tensor, teacher: Tensor, what: str) -> None:
    if student.shape != teacher.shape:
        raise ShapeMismatchError(
            f'SoftOutputKD: {what} of student and teacher differ in shape',
            expected=f'{tuple(teacher.shape)} as the teacher',
            actual=f'{tuple(student.shape)}',
        )
