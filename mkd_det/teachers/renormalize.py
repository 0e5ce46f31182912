"""Show a teacher the student's images as the teacher is used to see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PlanError
from ..heads.model_input import image_preprocessor

# Weights of red, green and blue.
_LUMINANCE = (0.299, 0.587, 0.114)


class Renormalizer:
    """Replaces the student's normalisation of images by the teacher's.

    Augmentation, resizing and padding happen once, in the student's
    preprocessor; mean, std and channel order may differ between the models. A teacher
    of gray images gets the luminance (ITU-R BT.601, as OpenCV has it) of coloured ones.

    Args:
        student: The student's data preprocessor.
        teacher: The teacher's.
        name: The teacher's name, for messages.
        takes: Channels of the images that student and teacher take, where mean and std
            do not say; None for what they say.

    Raises:
        PlanError: The student's padding or channels do not suit the teacher.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        name: str,
        takes: tuple[int, int] | None = None,
    ) -> None:
        teacher = image_preprocessor(teacher)
        theirs = getattr(teacher, 'pad_size_divisor', 1)
        ours = getattr(student, 'pad_size_divisor', 1)
        if ours % theirs:
            raise PlanError(
                f'teacher {name!r} needs images padded to a multiple of {theirs}',
                expected=f'pad_size_divisor={theirs}',
                actual=f'pad_size_divisor={ours} in the student',
                fix=f'student=dict(data_preprocessor=dict(pad_size_divisor={theirs}))',
            )
        counts = [_channels(student), _channels(teacher)]
        if 1 < counts[0] != counts[1] > 1:
            raise PlanError(
                f'teacher {name!r} sees images of other channels',
                expected=f'{counts[1]} channels',
                actual=f'{counts[0]} channels of the student',
                fix='two models for the same images',
            )
        self.luminance = takes == (3, 1)
        channels = 3 if self.luminance else max(counts)
        mean_s, std_s = _stats(student, channels)
        mean_t, std_t = _stats(teacher, channels)
        self.flip = not self.luminance and _flips(student) != _flips(teacher)
        if self.flip:
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        # Axis of the channels from the end: -3 for images, -4 for videos (C, T, H, W).
        self.axis = min(_channel_axis(student), _channel_axis(teacher))
        shape = (-1, *[1] * (-self.axis - 1))
        weights = torch.ones(channels)
        if self.luminance:
            weights = torch.tensor(_LUMINANCE if _flips(student) else _LUMINANCE[::-1])
            mean_s = (weights * mean_s).sum()
        self.scale = (weights * std_s / std_t).view(shape)
        self.shift = ((mean_s - mean_t) / std_t).view(shape)
        if self.luminance:
            self.shift = self.shift[:1]
        self.pad_value = float(getattr(teacher, 'pad_value', 0))
        same_pad = self.pad_value == float(getattr(student, 'pad_value', 0))
        self.needed = bool(
            self.flip
            or self.luminance
            or not same_pad
            or (self.scale != 1).any()
            or self.shift.any()
        )

    @property
    def key(self) -> tuple:
        """Key that is equal for teachers that see a batch alike."""
        if not self.needed:
            return ()
        numbers = [*self.scale.flatten().tolist(), *self.shift.flatten().tolist()]
        return (self.flip, self.luminance, self.pad_value, *numbers)

    def __call__(self, inputs: Tensor, data_samples: Sequence[Any] | None) -> Tensor:
        """Return the batch as the teacher's own preprocessor would make it.

        Args:
            inputs: Images that the student's preprocessor made, (N, 3, H, W), or
                videos (N, 3, T, H, W).
            data_samples: A data sample per image, for its size without padding.
        """
        if not self.needed:
            return inputs
        if self.flip:
            inputs = inputs.flip(self.axis)
        images = inputs * self.scale.to(inputs)
        if self.luminance:
            images = images.sum(self.axis, keepdim=True)
        images = images + self.shift.to(inputs)
        for image, sample in zip(images, data_samples or (), strict=False):
            height, width = getattr(sample, 'img_shape', image.shape[-2:])[:2]
            image[..., height:, :] = self.pad_value
            image[..., width:] = self.pad_value
        return images

    def __str__(self) -> str:
        if not self.needed:
            return 'as the student'
        changed = ', channels swapped' * self.flip + ', in gray' * self.luminance
        return 'own mean and std' + changed


def _stats(preprocessor: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    ones = torch.ones(channels)
    mean = getattr(preprocessor, 'mean', None)
    std = getattr(preprocessor, 'std', None)
    return (
        ones * 0 if mean is None else mean.detach().cpu().flatten().float() * ones,
        ones if std is None else std.detach().cpu().flatten().float() * ones,
    )


def _channel_axis(preprocessor: nn.Module) -> int:
    """Return the axis that the mean of a preprocessor is given for, from the end."""
    mean = getattr(preprocessor, 'mean', None)
    if mean is None or mean.dim() < 2 or mean.numel() == 1:
        return -3
    return next(i for i, n in enumerate(mean.shape) if n > 1) - mean.dim()


def _channels(preprocessor: nn.Module) -> int:
    """Return the number of channels that mean and std are given for; 1 for any."""
    stats = (getattr(preprocessor, key, None) for key in ('mean', 'std'))
    return max((s.numel() for s in stats if s is not None), default=1)


def _flips(preprocessor: nn.Module) -> bool:
    return bool(getattr(preprocessor, '_channel_conversion', False))
