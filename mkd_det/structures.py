"""What passes between taps, adapters and terms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

# A level is a feature map or a vector; the level of a head is a tuple of what
# the head yields there (class scores, box predictions, ...).
Level = Tensor | tuple[Tensor, ...]
Levels = tuple[Level, ...]


class DenseOutput(NamedTuple):
    """What a dense head says, all levels and priors in one row of P places.

    Args:
        scores: Class logits (N, P, C).
        boxes: Decoded boxes (N, P, 4) as x1, y1, x2, y2 in input pixels;
            None where the head's boxes cannot be decoded.
        bins: Logits of the box distributions (N, P, 4, reg_max + 1); None
            for heads without distributions.
        priors: Anchors (P_l, 4) or points (P_l, 2) of each level, in input pixels.
    """

    scores: Tensor
    boxes: Tensor | None = None
    bins: Tensor | None = None
    priors: tuple[Tensor, ...] | None = None


class GroundTruth(NamedTuple):
    """What is known to be right about a batch.

    Args:
        boxes: Of each image (M, 4), as x1, y1, x2, y2 in input pixels; none at all for
            classifiers.
        labels: Of each box (M,); for classifiers (), one an image.
        size: (H, W) of the batch, padding included.
    """

    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class LevelSpec:
    """Shape of one level, as found by probing the model once.

    Args:
        channels: Number of channels C of (N, C, H, W), (N, C) or (N, L, C).
        stride: Input pixels per cell of the map (None for vectors).
        size: (H, W) of the map for the probe's input; () for vectors.
        grad: Whether a gradient flows through it (parameters before it are
            trained).
    """

    channels: int
    stride: int | None
    size: tuple[int, ...]
    grad: bool = True

    def __str__(self) -> str:
        return f'{self.channels}' + (f'/{self.stride}' if self.stride else '')


@dataclass(frozen=True)
class Knowledge:
    """What a tap yielded in one forward.

    Args:
        owner: 'student' or a teacher's name.
        tap: Name of the tap.
        levels: The levels, finest first as the model yields them.
        strides: Input pixels per cell of each level (None for vectors).
    """

    owner: str
    tap: str
    levels: Levels
    strides: tuple[int | None, ...]

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level (of its first tensor, for heads)."""
        return tuple(channels_of(level) for level in self.levels)


def first_tensor(level: Level) -> Tensor:
    """The level itself, or the first of a head's tensors."""
    return level[0] if isinstance(level, tuple) else level


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in tuples and lists of any depth."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def channels_of(level: Level) -> int:
    """Channels of (N, C, H, W) and (N, C); last dimension of (N, L, C); of (N,) 1."""
    tensor = first_tensor(level)
    if tensor.dim() == 1:
        return 1
    return tensor.shape[-1] if tensor.dim() == 3 else tensor.shape[1]


def full_precision(tensor: Tensor) -> Tensor:
    """Half precision as float32; what is wider stays as it is."""
    return tensor if tensor.dtype.itemsize >= 4 else tensor.float()
