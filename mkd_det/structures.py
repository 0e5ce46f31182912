"""Data that passes between taps, heads, adapters and terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

# A level is a feature map or a vector; the level of a head is a tuple of what
# the head yields there (class scores, box predictions, ...).
Level = Tensor | tuple[Tensor, ...]
Levels = tuple[Level, ...]


class HeadOutput(NamedTuple):
    """What a head predicts, in P rows: places of a dense head, regions or queries.

    Args:
        scores: Class logits (N, P, C).
        boxes: Decoded boxes (N, P, 4) as x1, y1, x2, y2 in input pixels; (N, P, K, 4)
            for heads with a box for each class, K 1 where all classes share it; None
            where the head's boxes cannot be decoded.
        bins: Logits of the box distributions (N, P, 4, reg_max + 1); None for heads
            without distributions.
        priors: Anchors (P_l, 4) or points (P_l, 2) of each level, in input pixels;
            None for heads without priors.
        earlier: The outputs of the decoder layers before, for heads of queries, whose
            boxes are in units of the image's sides; None for other heads.
    """

    scores: Tensor
    boxes: Tensor | None = None
    bins: Tensor | None = None
    priors: tuple[Tensor, ...] | None = None
    earlier: tuple[HeadOutput, ...] | None = None


class GroundTruth(NamedTuple):
    """The ground truth of a batch.

    Args:
        boxes: Boxes of each image (M, 4), as x1, y1, x2, y2 in input pixels; empty for
            classifiers.
        labels: Labels of the boxes of each image (M,); for classifiers the label of
            each image ().
        size: (H, W) of the batch, padding included.
    """

    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class LevelSpec:
    """Shape of one level, found by probing the model once.

    Args:
        channels: Number of channels C of (N, C, H, W), (N, C) or (N, L, C).
        stride: Input pixels per cell of the map (None for vectors).
        size: (H, W) of the map for the probe's input; () for vectors.
        grad: Whether a gradient flows through it, that is, whether a parameter before
            it is trained.
        length: Number L of positions of a sequence (N, L, C); 0 for others.
    """

    channels: int
    stride: int | None
    size: tuple[int, ...]
    grad: bool = True
    length: int = 0

    def __str__(self) -> str:
        return f'{self.channels}' + (f'/{self.stride}' if self.stride else '')


@dataclass(frozen=True)
class Knowledge:
    """What a tap yielded in one forward: this is what hooks get.

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
        """Channels of each level; for heads those of its first tensor."""
        return tuple(channels_of(level) for level in self.levels)


def first_tensor(level: Level) -> Tensor:
    """Return the level itself, or the first tensor of a head's level."""
    return level[0] if isinstance(level, tuple) else level


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in tuples and lists of any depth."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def bytes_in(value: Any) -> int:
    """Return the bytes of all tensors in dicts, tuples and lists of any depth."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return sum(map(bytes_in, value))
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def channels_of(level: Level) -> int:
    """Return C of (N, C, H, W), (N, C) or (N, L, C), and 1 for (N,)."""
    tensor = first_tensor(level)
    if tensor.dim() == 1:
        return 1
    return tensor.shape[-1] if tensor.dim() == 3 else tensor.shape[1]


def full_precision(tensor: Tensor) -> Tensor:
    """Return half precision as float32, and wider types as they are."""
    return tensor if tensor.dtype.itemsize >= 4 else tensor.float()
