"""The dataset of the demo: handwritten digits on photographs, made without a download.

The wheel of scikit-learn contains 1797 real handwritten digits of 8x8 pixels, the wheel
of scikit-image a dozen photographs. Digits of random size, angle and contrast are
painted on crops of photographs. Equal arguments give equal files, bit for bit.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from ..errors import DataError, EnvironmentVersionError
from .digit_painter import CLASSES, Painter

SPLITS = ('train', 'val')

# Photographs in scikit-image's wheel. Its other images are downloaded or contain text.
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
# Increase it when equal arguments give other images than before.
VERSION = 2


@dataclass(frozen=True)
class DigitSettings:
    """Arguments of a dataset, written to its stamp file.

    Args:
        train: Number of training images.
        val: Number of validation images.
        size: Width and height of an image in pixels.
        seed: Seed of all random numbers.
        version: Version of this code.
    """

    train: int
    val: int
    size: int
    seed: int
    version: int = VERSION


def make_digits(
    root: str | os.PathLike,
    train: int = 400,
    val: int = 100,
    size: int = 160,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make the dataset in `root`, unless it is complete there.

    Writes `train/*.png`, `val/*.png`, `train.json`, `val.json` (COCO format) and a
    stamp file with the arguments. The files are written to a folder beside `root`,
    which is renamed when it is complete. A dataset with the same stamp is used again.
    The splits share no scanned digit and no part of a photograph.

    Args:
        root: The folder to make.
        train: Number of training images.
        val: Number of validation images.
        size: Width and height of an image in pixels.
        seed: Seed of all random numbers.
        progress: Called as `progress(done, total)` after each image.

    Returns:
        `root`.

    Raises:
        DataError: `root` contains other files.
    """
    root = Path(root)
    settings = DigitSettings(train, val, size, seed)
    if _is_complete(root, settings):
        return root
    present = {path.name for path in root.iterdir()} if root.exists() else set()
    own = {STAMP, *SPLITS, *(f'{split}.json' for split in SPLITS)}
    if present and not (STAMP in present and present <= own):
        raise DataError(
            f'{root} contains other files than generated digits',
            expected='a folder that does not exist yet, or an earlier dataset',
            available=sorted(present)[:8],
            fix='choose another folder',
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    # A new name: a folder that is there already belongs to somebody else.
    with TemporaryDirectory(prefix=f'.{root.name}.', dir=root.parent) as folder:
        partial = Path(folder) / root.name
        for done, _ in enumerate(_write(partial, settings), start=1):
            if progress:
                progress(done, train + val)
        (partial / STAMP).write_text(json.dumps(asdict(settings)))
        shutil.rmtree(root, ignore_errors=True)
        os.replace(partial, root)
    return root


def _is_complete(root: Path, settings: DigitSettings) -> bool:
    stamp = root / STAMP
    return (
        stamp.is_file()
        and stamp.read_text() == json.dumps(asdict(settings))
        and all((root / f'{split}.json').is_file() for split in SPLITS)
        and all(
            len(list((root / split).glob('*.png'))) == getattr(settings, split)
            for split in SPLITS
        )
    )


def _write(root: Path, settings: DigitSettings) -> Iterator[None]:
    """Write all files except the stamp; yields after each image."""
    painters = dict(zip(SPLITS, _painters(settings), strict=True))
    for split, painter in painters.items():
        (root / split).mkdir(parents=True)
        images: list[dict] = []
        boxes: list[dict] = []
        for i in range(getattr(settings, split)):
            # A generator per image: image i does not depend on the number of images.
            scene = painter.paint([settings.seed, SPLITS.index(split), i])
            name = f'{i:05d}.png'
            Image.fromarray(scene.image).save(root / split / name)
            images.append(
                {
                    'id': i + 1,
                    'file_name': name,
                    'width': settings.size,
                    'height': settings.size,
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


def training_painter(settings: DigitSettings) -> Painter:
    """Return the painter of the training images.

    Args:
        settings: Arguments of the dataset.

    Raises:
        EnvironmentVersionError: The extra `demo` is not installed.
    """
    return _painters(settings)[0]


def _painters(settings: DigitSettings) -> tuple[Painter, Painter]:
    """Return the painters of training and validation, which share nothing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise _absent('scikit-learn') from error
    digits, labels = load_digits(return_X_y=True)
    digits = digits.reshape(-1, 8, 8).astype(np.float32) / 16
    order = np.random.default_rng(settings.seed).permutation(len(digits))
    cut = len(order) * 3 // 4
    photos = _photographs()
    left = [photo[:, : photo.shape[1] * 2 // 3] for photo in photos]
    right = [photo[:, photo.shape[1] * 2 // 3 :] for photo in photos]
    return (
        Painter(digits[order[:cut]], labels[order[:cut]], left, settings.size),
        Painter(digits[order[cut:]], labels[order[cut:]], right, settings.size),
    )


def _photographs() -> list[np.ndarray]:
    """Return the photographs, (H, W, 3), uint8, RGB."""
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
        f'{package} is not installed; the demo needs it for its digits',
        fix="pip install -e '.[demo]'",
    )
