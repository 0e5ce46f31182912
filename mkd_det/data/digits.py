"""The demo's data set, made on the spot: handwritten digits in photographs.

scikit-learn carries 1797 real handwritten digits of 8x8 pixels, scikit-image a
dozen photographs; both come inside their wheels, so nothing is downloaded.
Digits of random size, angle and contrast are laid on crops of photographs.
The same arguments give the same files, bit for bit.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError, EnvironmentVersionError

CLASSES = ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
SPLITS = ('train', 'val')

# Photographs inside scikit-image's wheel; its other pictures it downloads, or
# they show writing of their own.
PHOTOGRAPHS = (
    'astronaut.png',
    'brick.png',
    'camera.png',
    'chelsea.png',
    'coffee.png',
    'grass.png',
    'gravel.png',
    'rocket.jpg',
)
STAMP = 'complete.json'
# Raise it when the same arguments give other pictures than before.
VERSION = 2


@dataclass(frozen=True)
class Recipe:
    """What a set was made from. Stands in its stamp.

    Args:
        train: Number of images to train on.
        val: Number of images to validate on.
        size: Width and height of an image in pixels.
        seed: Of everything that is random.
        version: Of this code.
    """

    train: int
    val: int
    size: int
    seed: int
    version: int = VERSION


@dataclass(frozen=True)
class Scene:
    """One picture and its truth.

    Args:
        image: (size, size, 3), uint8, RGB.
        boxes: Of each digit x, y, width, height in pixels, tight.
        labels: Which digit it is.
    """

    image: np.ndarray
    boxes: list[tuple[int, int, int, int]]
    labels: list[int]


def make_digits(
    root: str | os.PathLike,
    train: int = 400,
    val: int = 100,
    size: int = 160,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make the set under `root`, or find it there.

    Leaves `train/*.png`, `val/*.png`, `train.json`, `val.json` (COCO format)
    and a stamp. It is written to a folder beside `root` that is renamed when
    whole, so that an interrupted run leaves nothing that looks complete. What
    is there with the same stamp is used again. No digit specimen and no spot
    of a photograph is in both splits.

    Args:
        root: The folder to make.
        train: Number of images to train on.
        val: Number of images to validate on.
        size: Width and height of an image in pixels.
        seed: Of everything that is random.
        progress: Called as `progress(done, total)` after each image.

    Returns:
        `root`.

    Raises:
        DataError: `root` holds something else.
    """
    root = Path(root)
    recipe = Recipe(train, val, size, seed)
    if _is_complete(root, recipe):
        return root
    if root.exists() and any(root.iterdir()) and not (root / STAMP).is_file():
        raise DataError(
            f'{root} holds something else than generated digits',
            expected='a folder that is not there yet, or an earlier set',
            available=sorted(path.name for path in root.iterdir())[:8],
            fix='another folder',
        )
    partial = root.with_name(root.name + '.partial')
    shutil.rmtree(partial, ignore_errors=True)
    total = train + val
    for done, _ in enumerate(_write(partial, recipe), start=1):
        if progress:
            progress(done, total)
    (partial / STAMP).write_text(json.dumps(asdict(recipe)))
    shutil.rmtree(root, ignore_errors=True)
    os.replace(partial, root)
    return root


def _is_complete(root: Path, recipe: Recipe) -> bool:
    stamp = root / STAMP
    return (
        stamp.is_file()
        and stamp.read_text() == json.dumps(asdict(recipe))
        and all((root / f'{split}.json').is_file() for split in SPLITS)
        and all(
            len(list((root / split).glob('*.png'))) == getattr(recipe, split)
            for split in SPLITS
        )
    )


def _write(root: Path, recipe: Recipe) -> Iterator[None]:
    """Write all files but the stamp; yields after each image."""
    painters = dict(zip(SPLITS, _painters(recipe), strict=True))
    for split, painter in painters.items():
        (root / split).mkdir(parents=True)
        images: list[dict] = []
        boxes: list[dict] = []
        for i in range(getattr(recipe, split)):
            # A generator of its own: image i does not depend on how many
            # there are.
            scene = painter.paint([recipe.seed, SPLITS.index(split), i])
            name = f'{i:05d}.png'
            Image.fromarray(scene.image).save(root / split / name)
            images.append(
                {
                    'id': i + 1,
                    'file_name': name,
                    'width': recipe.size,
                    'height': recipe.size,
                }
            )
            boxes += [
                {
                    'id': len(boxes) + k + 1,
                    'image_id': i + 1,
                    'category_id': label + 1,
                    'bbox': box,
                    'area': box[2] * box[3],
                    'iscrowd': 0,
                }
                for k, (box, label) in enumerate(
                    zip(scene.boxes, scene.labels, strict=True)
                )
            ]
            yield
        content = {
            'images': images,
            'annotations': boxes,
            'categories': [{'id': i + 1, 'name': n} for i, n in enumerate(CLASSES)],
        }
        (root / f'{split}.json').write_text(json.dumps(content))


def _painters(recipe: Recipe) -> tuple[Painter, Painter]:
    """A painter for training and one for validation that share nothing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise _absent('scikit-learn') from error
    digits, labels = load_digits(return_X_y=True)
    digits = digits.reshape(-1, 8, 8).astype(np.float32) / 16
    order = np.random.default_rng(recipe.seed).permutation(len(digits))
    cut = len(order) * 3 // 4
    photos = _photographs()
    left = [photo[:, : photo.shape[1] * 2 // 3] for photo in photos]
    right = [photo[:, photo.shape[1] * 2 // 3 :] for photo in photos]
    return (
        Painter(digits[order[:cut]], labels[order[:cut]], left, recipe.size),
        Painter(digits[order[cut:]], labels[order[cut:]], right, recipe.size),
    )


def _photographs() -> list[np.ndarray]:
    """The photographs, (H, W, 3), uint8, RGB."""
    try:
        folder = files('skimage.data')
    except ImportError as error:
        raise _absent('scikit-image') from error
    photos = []
    for name in PHOTOGRAPHS:
        with as_file(folder / name) as path, Image.open(path) as image:
            photos.append(np.asarray(image.convert('RGB')))
    return photos


def _absent(package: str) -> EnvironmentVersionError:
    return EnvironmentVersionError(
        f'{package} is not installed; the digits of the demo come from it',
        fix="pip install -e '.[demo]'",
    )


@dataclass(frozen=True)
class Painter:
    """Lays digits on crops of photographs.

    Args:
        digits: Specimens (N, 8, 8), float32, 0 paper to 1 ink.
        labels: (N,), which digit each is.
        photographs: Where crops are taken from, (H, W, 3), uint8.
        size: Width and height of a picture in pixels.
        count: Fewest and most digits in a picture.
        scale: Smallest and largest height of a digit before it is turned, as
            a part of the picture's.
        angle: Largest angle in degrees, to either side.
        contrast: Smallest and largest difference in brightness between a
            digit and nearly all that it lies on, of 255.
        overlap: Largest part of a box that may lie under another.
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
        """A picture; the same one for the same seed."""
        rng = np.random.default_rng(seed)
        canvas = self._background(rng)
        boxes: list[tuple[int, int, int, int]] = []
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
        """A square crop of a photograph, scaled to the picture: (H, W, 3)."""
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
        """A specimen of `label`, scaled and turned, cut to what is drawn:
        (h, w), 0 to 1."""
        choice = np.flatnonzero(self.labels == label)
        # The scan ends where the ink does: without a margin of paper the
        # outline would be cut off straight.
        digit = Image.fromarray(np.pad(self.digits[rng.choice(choice)], 1))
        side = round(self.size * rng.uniform(*self.scale) * 10 / 8)
        large = digit.resize((side, side), Image.Resampling.BICUBIC)
        # Paper around it, so that no corner is cut off in turning.
        paper = Image.new('F', (2 * side, 2 * side))
        paper.paste(large, (side // 2, side // 2))
        degrees = rng.uniform(-self.angle, self.angle)
        turned = np.asarray(paper.rotate(degrees, Image.Resampling.BICUBIC))
        # The scan's grey is how much of a pixel the pen covered: near one
        # half runs the outline.
        ink = np.clip((turned - 0.3) / 0.4, 0, 1)
        drawn = ink > 0.5
        rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
        return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

    def _place(
        self,
        rng: np.random.Generator,
        shape: tuple[int, ...],
        canvas: np.ndarray,
        boxes: Sequence[tuple[int, int, int, int]],
    ) -> tuple[int, int, int, int] | None:
        """A free spot where a digit of (h, w) can be seen, or None if none was
        found."""
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
        box: tuple[int, int, int, int],
    ) -> None:
        """Lay a digit on the canvas, brighter or darker than what is there."""
        x, y, width, height = box
        spot = canvas[y : y + height, x : x + width]
        room = np.array(_room(spot))
        fits = np.where(room >= self.contrast[0], room, 0)
        brighter = int(rng.random() < fits[1] / fits.sum())
        most = min(self.contrast[1], room[brighter])
        step = rng.uniform(self.contrast[0], most)
        # As far from the bright part of the spot, or from its dark part.
        grey = 255 - room[1] + step if brighter else room[0] - step
        tint = rng.uniform(-35, 35, 3)
        colour = np.clip(grey + tint - tint.mean(), 0, 255)
        spot += ink[..., None] * (colour - spot)


def _room(spot: np.ndarray) -> tuple[float, float]:
    """How much darker, and how much brighter, a colour can be than nearly all
    of a spot (h, w, 3)."""
    dark, bright = np.percentile(spot.mean(axis=2), (15, 85))
    return float(dark), float(255 - bright)


def _covered(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """The intersection of two boxes, as a part of the smaller one."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    smaller = min(box[2] * box[3], other[2] * other[3])
    return max(width, 0) * max(height, 0) / smaller
