"""The contract of every distillation loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import ConfigError, check_keys, check_string_keys
from ..structures import GroundTruth, Level, first_tensor, full_precision
from ..weighting.schedules import Progress, WeightSchedule


class PairLoss(nn.Module):
    """A loss between levels of the student and levels of the teacher.

    A subclass writes `pair` for one level, in plain float32 tensors; this base
    does the rest: levels (mean over them), float32 even under autocast, the
    detached teacher, the weight and its schedule. A loss gets tensors only; it
    knows no paths, models or adapters.

    Args:
        weight: Factor on the loss, not negative.
        schedule: Keyword arguments of `WeightSchedule`: warm-up, decay, stop.

    Class attributes that the plan reads before the first step:
        demands: Equalities between the two sides, of 'same_channels' and
            'same_spatial'.
        reads: 'features' for maps and vectors; 'outputs' for what a
            dense head yields, read into `DenseOutput` (see `outputs.py`). A
            constructor with the argument `kind` is told 'sigmoid' or 'softmax', one
            with `channels` those of student and teacher, level by level.
        also: Names under which the config gives further knowledge, and whose it is,
            'teacher' or 'student'; `forward` gets it by these names, detached.
        truth: What of the ground truth `forward` gets: 'boxes', 'labels' (of whole
            images), or nothing.
        weighs_samples: Whether a mask that is one number a sample makes samples
            count more or less (the loss is a mean over samples).
    """

    demands: ClassVar[frozenset[str]] = frozenset()
    reads: ClassVar[str] = 'features'
    also: ClassVar[Mapping[str, str]] = {}
    truth: ClassVar[str] = ''
    weighs_samples: ClassVar[bool] = False

    def __init__(self, weight: float = 1.0, schedule: dict | None = None) -> None:
        super().__init__()
        if not weight >= 0:
            raise ConfigError(
                f'{type(self).__name__}: weight must be a number >= 0', actual=weight
            )
        self.weight = float(weight)
        check_string_keys(schedule, f'{type(self).__name__}: schedule')
        known = [field.name for field in fields(WeightSchedule)]
        check_keys(schedule or {}, known, f'{type(self).__name__}: schedule')
        self.schedule = WeightSchedule(**(schedule or {}))

    def needs_boxes(self, student: Any, teacher: Any) -> bool:
        """Whether the loss reads decoded boxes of such outputs. If not, they come
        without, which is cheaper.

        Args:
            student: A `DenseOutput` as later ones will be.
            teacher: Likewise.
        """
        return True

    def weight_at(self, progress: Progress) -> float:
        """The weight, times its schedule's factor."""
        return self.weight * self.schedule.factor(progress)

    def forward(
        self,
        student: Sequence[Level],
        teacher: Sequence[Level],
        mask: Sequence[Tensor] | None = None,
        truth: GroundTruth | None = None,
        **also: Sequence[Level],
    ) -> Tensor | dict[str, Tensor]:
        """Mean of `pair` over the levels, without the weight.

        Args:
            student: Levels of the student.
            teacher: As many levels of the teacher.
            mask: Per level (N, 1, H, W), what counts how much. Optional.
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
        """Mean of `pair` over the levels. Losses that relate levels to each
        other override this instead of `pair`."""
        masks: Sequence[Tensor | None] = mask or [None] * len(student)
        losses = [
            self.pair(s, t, m) for s, t, m in zip(student, teacher, masks, strict=True)
        ]
        return torch.stack(losses).mean()

    def pair(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """The loss of one level, a scalar."""
        raise TypeError(f'{type(self).__name__} must define pair() or over_levels()')


def _float(level: Any, detach: bool = False) -> Any:
    if isinstance(level, tuple):
        # Keeps named tuples (DenseOutput) what they are.
        parts: Any = [None if p is None else _float(p, detach) for p in level]
        return type(level)(*parts) if hasattr(level, '_fields') else tuple(parts)
    return full_precision(level.detach() if detach else level)
