"""The contract of every distillation loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..errors import ConfigError, is_number
from ..structures import GroundTruth, HeadOutput, Level, first_tensor, full_precision
from ..weighting.schedules import Progress, WeightSchedule

# What class logits are for: independent classes, or classes that exclude each other.
Activation = Literal['sigmoid', 'softmax']


class PairLoss(nn.Module):
    """A loss between levels of the student and levels of the teacher.

    A subclass writes `pair` for one level, or `outputs` for what heads predict, in
    plain float32 tensors. This base does the rest: the mean over levels, float32 even
    under autocast, the detached teacher, the weight and its schedule. A loss gets
    tensors only; it knows no paths, models or adapters.

    The plan reads the class attributes before the first step. It fills in two arguments
    of a constructor that has them: `activation` ('sigmoid' or 'softmax') says what the
    class logits of the heads are for, `channels` gives the channels of student and
    teacher, level by level.

    Args:
        weight: Factor on the loss, not negative.
        schedule: Arguments of `WeightSchedule`: warm-up, decay, stop.
        share: How hard the loss should pull on the student, as a fraction of the task's
            gradient. A share carries over to other data, a weight does not. It changes
            nothing by itself: `mkd-det calibrate` finds the weight that gives it, and
            `balance` keeps to it.

    Class attributes:
        demands: Equalities between the two sides, of 'same_channels' and
            'same_spatial'.
        reads: 'features' for maps and vectors; 'outputs' for predictions of heads
            (`HeadOutput`, one for each side) or plain logits.
        of_classes: Whether the channels of the features that it reads are classes.
            Such losses, and those that read outputs, get the classes that both sides
            know where a teacher has a class map. Labels of other classes are -1: their
            rows have no target, and are left out.
        matches_rows: Whether the loss itself finds out which rows of two head outputs
            belong together. Other losses compare row i with row i.
        also: Names of further knowledge that the config gives, and whose it is,
            'teacher' or 'student'. `forward` gets it by these names, detached.
        truth: What `forward` gets of the ground truth: 'boxes', 'labels' (of whole
            images), or '' for nothing.
        weighs_samples: Whether a mask with one number for each sample makes samples
            count more or less (the loss is a mean over samples).
        instead: What to write where a part has no gradient at the shapes of a pair, by
            the name of the part ('' for a loss without parts).
    """

    demands: ClassVar[frozenset[str]] = frozenset()
    reads: ClassVar[str] = 'features'
    of_classes: ClassVar[bool] = False
    matches_rows: ClassVar[bool] = False
    also: ClassVar[Mapping[str, str]] = {}
    truth: ClassVar[str] = ''
    weighs_samples: ClassVar[bool] = False
    instead: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        weight: float = 1.0,
        schedule: dict | None = None,
        share: float | None = None,
    ) -> None:
        super().__init__()
        if not weight >= 0:
            raise ConfigError(
                f'{type(self).__name__}: weight must be a number >= 0', actual=weight
            )
        if share is not None and not (is_number(share) and 0 < share < float('inf')):
            raise ConfigError(
                f'{type(self).__name__}: share must be a number above 0',
                actual=repr(share),
                fix='share=0.5',
            )
        self.weight = float(weight)
        self.share = share
        where = f'{type(self).__name__}: schedule'
        self.schedule = WeightSchedule.parse(schedule, where)

    @property
    def least_at_agreement(self) -> bool:
        """Whether nothing is to be learned where the student agrees with the teacher.

        The loss is then 0, or has no gradient. The plan checks it for each head that a
        term reads: a head against itself shows what is read otherwise in training.
        """
        return True

    def needs_boxes(self, student: Any, teacher: Any) -> bool:
        """Return whether the loss needs decoded boxes of such outputs.

        If not, they come without boxes, which is cheaper.

        Args:
            student: A `HeadOutput` like those of later steps.
            teacher: Likewise.
        """
        return True

    def left_out(self, student: Any, teacher: Any) -> str:
        """Return what the loss compares of other heads, but not of these, in words.

        The plan notes it. Empty where nothing is left out.

        Args:
            student: A `HeadOutput` like those of later steps.
            teacher: Likewise.
        """
        return ''

    def weight_at(self, progress: Progress) -> float:
        """Return the weight, times the factor of its schedule."""
        return self.weight * self.schedule.factor(progress)

    def forward(
        self,
        student: Sequence[Level],
        teacher: Sequence[Level],
        mask: Sequence[Tensor] | None = None,
        truth: GroundTruth | None = None,
        **also: Sequence[Level],
    ) -> Tensor | dict[str, Tensor]:
        """Compute the loss over all levels, without the weight.

        Args:
            student: Levels of the student, or one `HeadOutput`.
            teacher: As many levels of the teacher, or one `HeadOutput`.
            mask: Per level (N, 1, H, W), how much each place counts. Optional.
            truth: The ground truth, for losses that ask for it.
            **also: Levels of what `also` names, for `over_levels`.

        Returns:
            A scalar, or a dict of scalars for losses with parts.
        """
        device = first_tensor(student[0]).device.type
        known: dict[str, Any] = {'truth': truth} if self.truth else {}
        with torch.autocast(device, enabled=False):
            return self.over_levels(
                [_float(level) for level in student],
                [_float(level, detach=True) for level in teacher],
                mask,
                **known,
                **{
                    name: [_float(level, detach=True) for level in levels]
                    for name, levels in also.items()
                },
            )

    def over_levels(
        self,
        student: list[Any],
        teacher: list[Any],
        mask: Sequence[Tensor] | None,
    ) -> Tensor | dict[str, Tensor]:
        """Average `pair` over the levels, or compare the predictions of two heads.

        Losses that relate levels to each other override this instead of `pair`.
        """
        if isinstance(student[0], HeadOutput):
            return self.outputs(student[0], teacher[0], mask[0] if mask else None)
        masks: Sequence[Tensor | None] = mask or [None] * len(student)
        losses = [
            self.pair(s, t, m) for s, t, m in zip(student, teacher, masks, strict=True)
        ]
        return torch.stack(losses).mean()

    def pair(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Return the loss of one level, a scalar."""
        raise TypeError(f'{type(self).__name__} must define pair() or over_levels()')

    def outputs(
        self, student: HeadOutput, teacher: HeadOutput, mask: Tensor | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Return the loss of the predictions of two heads."""
        raise TypeError(f'{type(self).__name__} must define outputs()')


def _float(level: Any, detach: bool = False) -> Any:
    if isinstance(level, tuple):
        # Keeps named tuples (HeadOutput) what they are.
        parts: Any = [None if p is None else _float(p, detach) for p in level]
        return type(level)(*parts) if hasattr(level, '_fields') else tuple(parts)
    return full_precision(level.detach() if detach else level)


def check_focus(loss: str, focus: float) -> None:
    """Raise ConfigError unless `focus` is an exponent of confidences.

    Args:
        loss: Name of the loss, for the message.
        focus: The exponent.
    """
    if not (is_number(focus) and focus >= 0):
        raise ConfigError(
            f'{loss}: focus must be a number >= 0', actual=repr(focus), fix='focus=2.0'
        )
