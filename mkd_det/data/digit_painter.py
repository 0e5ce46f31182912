"""Painting digits on crops of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """A painted image and its ground truth.

    Args:
        image: RGB image (size, size, 3), uint8.
        boxes: Tight box of each digit: x, y, width, height in pixels.
        labels: Class of each digit.
    """

    image: np.ndarray
    boxes: list[Box]
    labels: list[int]


@dataclass(frozen=True)
class Painter:
    """Paints digits on crops of photographs.

    Args:
        digits: Scanned digits (N, 8, 8), float32, from 0 (paper) to 1 (ink).
        labels: Class of each scan (N,).
        photographs: Backgrounds (H, W, 3), uint8.
        size: Width and height of an image in pixels.
        count: Minimum and maximum number of digits in an image.
        scale: Minimum and maximum height of a digit before rotation, relative to the
            image.
        angle: Maximum rotation in degrees, in both directions.
        contrast: Minimum and maximum difference in brightness between a digit and its
            background, of 255.
        overlap: Maximum fraction of a box that another box covers.
    """

    digits: np.ndarray
    labels: np.ndarray
    photographs: Sequence[np.ndarray]
    size: int
    count: tuple[int, int] = (3, 7)
    scale: tuple[float, float] = (0.2, 0.4)
    angle: float = 12.0
    contrast: tuple[float, float] = (70.0, 150.0)
    overlap: float = 0.1

    def paint(self, seed: Any) -> Scene:
        """Return an image; equal seeds give equal images."""
        rng = np.random.default_rng(seed)
        canvas = self._background(rng)
        boxes: list[Box] = []
        labels: list[int] = []
        for _ in range(rng.integers(self.count[0], self.count[1] + 1)):
            label = int(rng.integers(len(CLASSES)))
            ink = self._ink(rng, label)
            box = self._place(rng, ink.shape, canvas, boxes)
            if box is None:
                continue
            self._draw(rng, canvas, ink, box)
            boxes.append(box)
            labels.append(label)
        return Scene(np.rint(canvas).astype(np.uint8), boxes, labels)

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        """Return a square crop of a photograph, scaled to the image: (H, W, 3)."""
        photo = self.photographs[int(rng.integers(len(self.photographs)))]
        height, width = photo.shape[:2]
        side = int(min(height, width) * rng.uniform(0.6, 1.0))
        y = rng.integers(height - side + 1)
        x = rng.integers(width - side + 1)
        crop = Image.fromarray(photo[y : y + side, x : x + side])
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        resized = crop.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(resized, np.float32).copy()

    def _ink(self, rng: np.random.Generator, label: int) -> np.ndarray:
        """Return a scan of `label`, scaled, rotated and cropped: (h, w), 0 to 1."""
        choice = np.flatnonzero(self.labels == label)
        # The scan ends at the ink: without a margin the outline would be cut off.
        digit = Image.fromarray(np.pad(self.digits[rng.choice(choice)], 1))
        side = round(self.size * rng.uniform(*self.scale) * 10 / 8)
        large = digit.resize((side, side), Image.Resampling.BICUBIC)
        # A margin, so that rotation cuts off no corner.
        paper = Image.new('F', (2 * side, 2 * side))
        paper.paste(large, (side // 2, side // 2))
        degrees = rng.uniform(-self.angle, self.angle)
        rotated = np.asarray(paper.rotate(degrees, Image.Resampling.BICUBIC))
        # Grey is the fraction of a pixel that the pen covered: the outline is near 0.5.
        ink = np.clip((rotated - 0.3) / 0.4, 0, 1)
        drawn = ink > 0.5
        rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
        return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

    def _place(
        self,
        rng: np.random.Generator,
        shape: tuple[int, ...],
        canvas: np.ndarray,
        boxes: Sequence[Box],
    ) -> Box | None:
        """Return a free box where a digit of (h, w) is visible, or None."""
        height, width = shape
        for _ in range(20):
            x = int(rng.integers(self.size - width + 1))
            y = int(rng.integers(self.size - height + 1))
            box = (x, y, width, height)
            free = all(_covered(box, other) <= self.overlap for other in boxes)
            spot = canvas[y : y + height, x : x + width]
            if free and max(_room(spot)) >= self.contrast[0]:
                return box
        return None

    def _draw(
        self,
        rng: np.random.Generator,
        canvas: np.ndarray,
        ink: np.ndarray,
        box: Box,
    ) -> None:
        """Draw a digit on the canvas, brighter or darker than the background."""
        x, y, width, height = box
        spot = canvas[y : y + height, x : x + width]
        room = np.array(_room(spot))
        fits = np.where(room >= self.contrast[0], room, 0)
        brighter = int(rng.random() < fits[1] / fits.sum())
        most = min(self.contrast[1], room[brighter])
        step = rng.uniform(self.contrast[0], most)
        # `step` brighter than the bright part of the spot, or darker than its dark
        # part.
        grey = 255 - room[1] + step if brighter else room[0] - step
        tint = rng.uniform(-35, 35, 3)
        colour = np.clip(grey + tint - tint.mean(), 0, 255)
        spot += ink[..., None] * (colour - spot)


def _room(spot: np.ndarray) -> tuple[float, float]:
    """Return how much darker and how much brighter than a spot a colour can be.

    The spot (h, w, 3) is measured by its 15th and 85th percentiles.
    """
    dark, bright = np.percentile(spot.mean(axis=2), (15, 85))
    return float(dark), float(255 - bright)


def _covered(box: Box, other: Box) -> float:
    """Return the intersection of two boxes, as a fraction of the smaller one."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    smaller = min(box[2] * box[3], other[2] * other[3])
    return max(width, 0) * max(height, 0) / smaller
