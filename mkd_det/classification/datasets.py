"""Classification datasets of torchvision for mmengine's runner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import v2

from ..errors import (
    AnnotationError,
    ConfigError,
    ImageError,
    is_integer,
    is_number,
    nearest_names,
)

KNOWN = ('CIFAR10', 'CIFAR100', 'FashionMNIST', 'ImageFolder', 'ImageNet', 'SVHN')


@DATASETS.register_module()
class TorchvisionDataset(Dataset):
    """A classification dataset of torchvision, with transforms from a config.

    Args:
        name: 'CIFAR10', 'CIFAR100', 'FashionMNIST', 'ImageFolder', 'ImageNet' or
            'SVHN'.
        root: Folder of the dataset.
        transforms: Configs of transforms of `torchvision.transforms.v2` on PIL images:
            [dict(type='RandomCrop', size=32, padding=4)]. The result is converted to a
            uint8 tensor (3, H, W).
        num_images: Use a random subset of this size, balanced over classes. None: all.
        label_noise: Fraction of labels that are replaced by another random class.
        seed: Seed of the subset and of the label noise.
        classes: Class names, in order, which labels then count. The dataset has them
            in this order; a part of the images may lack some. None accepts any.
        cache: Keep decoded images in memory: 3 bytes per pixel (154 MB for 50 000
            images of 32x32) in each process that loads them. Use it for small datasets
            of image files, with num_workers=0 or persistent_workers=True.
        **options: Arguments of torchvision's class: train=True, split='val',
            download=True.

    Attributes:
        metainfo: dict(classes=names).
        labels: Label of each image, noise included, (N,).
        counts: Number of images of each class, as `BalancedCE` needs it.

    Raises:
        ConfigError: A name, transform, option or number is not valid.
        AnnotationError: The dataset is missing, or has other classes or labels out of
            range.
        ImageError: An image cannot be read.
    """

    def __init__(
        self,
        name: str,
        root: str,
        transforms: Sequence[dict] = (),
        num_images: int | None = None,
        label_noise: float = 0.0,
        seed: int = 0,
        classes: Sequence[str] | None = None,
        cache: bool = False,
        **options: Any,
    ) -> None:
        if name not in KNOWN:
            raise ConfigError(
                'TorchvisionDataset: unknown dataset',
                actual=name,
                available=nearest_names(name, KNOWN, limit=len(KNOWN)),
            )
        self.transform = v2.Compose([*map(_transform, transforms), v2.PILToTensor()])
        self.data = _open(name, root, options)
        self.where = f'{name} {root}'
        labels = np.asarray(
            getattr(self.data, 'targets', getattr(self.data, 'labels', None)), np.int64
        )
        names = _names(self.data, labels)
        self._check_labels(labels, names)
        if classes is not None and tuple(classes) != names:
            labels = self._numbered_as(tuple(classes), names)[labels]
            names = tuple(classes)
        self.metainfo = dict(classes=names)
        draw = np.random.default_rng(seed)
        self.indices = _balanced_subset(labels, num_images, draw)
        self.labels = _add_noise(labels[self.indices], label_noise, len(names), draw)
        self.kept: dict[int, np.ndarray] | None = {} if cache else None

    @property
    def counts(self) -> list[int]:
        """Number of images of each class, label noise included."""
        classes = len(self.metainfo['classes'])
        return np.bincount(self.labels, minlength=classes).tolist()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.transform(self._image(int(self.indices[index])))
        sample = BaseDataElement(metainfo=dict(img_id=int(self.indices[index])))
        sample.gt_label = torch.tensor([int(self.labels[index])])
        return dict(inputs=image, data_samples=sample)

    def check(self, images: int) -> str:
        """Decode a sample of images and return a summary in one line.

        Args:
            images: Maximum number of images to decode, evenly spaced.

        Raises:
            ImageError: An image cannot be read.
            ConfigError: The transforms fail for the first image.
        """
        count = min(images, len(self))
        chosen = np.linspace(0, len(self) - 1, count).round().astype(int)
        for index in chosen:
            image = self._image(int(self.indices[index]))
            if index == 0:
                self._check_transform(image)
        counts = self.counts
        missing = [n for n, c in zip(self.metainfo['classes'], counts) if not c]
        of_each = {min(counts), max(counts)}
        return (
            f'{self.where}: {len(self)} images of {len(counts)} classes,'
            f' {" to ".join(map(str, sorted(of_each)))} of each,'
            f' {"all" if count == len(self) else count} images decoded'
            + (f'. Warning: no image of {missing[0]!r}' if missing else '')
        )

    def _check_transform(self, image: Image.Image) -> None:
        with torch.random.fork_rng(devices=[]):
            try:
                self.transform(image)
            except Exception as error:  # torchvision raises many types
                raise ConfigError(
                    f'{self.where}: the transforms fail for the first image',
                    expected=f'transforms of an image of {image.width}x{image.height}',
                    actual=f'{type(error).__name__}: {error}',
                ) from error

    def _image(self, number: int) -> Image.Image:
        """Return an image of torchvision's dataset, in RGB."""
        if self.kept is not None and number in self.kept:
            return Image.fromarray(self.kept[number])
        try:
            image = self.data[number][0].convert('RGB')
        except Exception as error:  # decoders raise many types for broken files
            raise ImageError(
                f'{self._named(number)} cannot be read',
                actual=str(error) or type(error).__name__,
                fix='copy or unpack it again, or remove it from its folder',
            ) from error
        if self.kept is not None:
            self.kept[number] = np.asarray(image)
        return image

    def _numbered_as(
        self, classes: tuple[str, ...], names: tuple[str, ...]
    ) -> np.ndarray:
        """Return the numbers in `classes` of the dataset's classes, by their own."""
        if tuple(name for name in classes if name in names) != names:
            raise AnnotationError(
                f'{self.where} has other classes, or in another order',
                expected=classes,
                actual=names,
                fix=f'classes={names}',
            )
        return np.array([classes.index(name) for name in names])

    def _named(self, number: int) -> str:
        files = getattr(self.data, 'samples', None)
        return str(files[number][0]) if files else f'image {number} of {self.where}'

    def _check_labels(self, labels: np.ndarray, names: Sequence[str]) -> None:
        wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
        if len(wrong):
            raise AnnotationError(
                f'{self.where}: {len(wrong)} of {len(labels)} labels are out of range',
                expected=f'0 to {len(names) - 1}, for {len(names)} classes',
                actual=f'{labels[wrong[0]]}: {self._named(int(wrong[0]))}',
                fix='copy or download the dataset again',
            )


def _open(name: str, root: str, options: dict[str, Any]) -> Any:
    folder = Path(root)
    try:
        return getattr(torchvision.datasets, name)(root, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f'TorchvisionDataset: {name} cannot be built from these options',
            actual=f'{options}: {error}',
        ) from error
    except (RuntimeError, OSError) as error:
        raise AnnotationError(
            f'{name}: no dataset in {root}',
            expected='a folder of images per class'
            if name == 'ImageFolder'
            else "torchvision's files of this dataset",
            actual=str(error).splitlines()[0],
            available=sorted(p.name for p in folder.iterdir())[:8]
            if folder.is_dir()
            else (),
            fix="correct root='...'"
            + ('' if name in ('ImageFolder', 'ImageNet') else ', or download=True'),
        ) from error


def _transform(cfg: dict) -> Any:
    kind = cfg.get('type') if isinstance(cfg, dict) else None
    # A class of a pure-Python config, or what mmengine writes for it.
    name = str(kind).rpartition('.')[2]
    cls = kind if isinstance(kind, type) else getattr(v2, name, None)
    if not isinstance(cls, type):
        known = [n for n in dir(v2) if isinstance(getattr(v2, n), type)]
        raise ConfigError(
            'TorchvisionDataset: torchvision.transforms.v2 has no such transform',
            actual=kind,
            available=nearest_names(str(kind), known),
        )
    rest = {k: v for k, v in cfg.items() if k not in ('type', '_scope_')}
    try:
        return cls(**rest)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f'TorchvisionDataset: {kind} cannot be built', actual=str(error)
        ) from error


def _names(data: Any, labels: np.ndarray) -> tuple[str, ...]:
    """Return the class names.

    The names are numbers if torchvision has none (SVHN); synonyms are joined
    (ImageNet).
    """
    found = getattr(data, 'classes', None) or range(labels.max() + 1)
    return tuple(', '.join(n) if isinstance(n, tuple) else str(n) for n in found)


def _balanced_subset(
    labels: np.ndarray, count: int | None, draw: np.random.Generator
) -> np.ndarray:
    """Return the indices of a subset with equally many images per class; None: all."""
    if count is None:
        return np.arange(len(labels))
    if not is_integer(count) or not 0 < count <= len(labels):
        raise ConfigError(
            'TorchvisionDataset: num_images must be an integer between 1 and the number'
            ' of images',
            actual=count,
            expected=f'at most {len(labels)}',
        )
    order = draw.permutation(len(labels))
    # Take the first image of every class, then the second of every class, and so on.
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        rank[own] = np.arange(len(own))
    return np.sort(order[np.argsort(rank[order], kind='stable')][:count])


def _add_noise(
    labels: np.ndarray, share: float, classes: int, draw: np.random.Generator
) -> np.ndarray:
    """Return the labels, a fraction of them replaced by another class."""
    if not is_number(share) or not 0 <= share < 1 or (share and classes < 2):
        raise ConfigError(
            'TorchvisionDataset: label_noise must be at least 0 and below 1, and needs'
            ' at least two classes',
            actual=share,
        )
    wrong = draw.permutation(len(labels))[: round(share * len(labels))]
    other = labels[wrong] + draw.integers(1, max(classes, 2), len(wrong))
    labels = labels.copy()
    labels[wrong] = other % classes
    return labels
