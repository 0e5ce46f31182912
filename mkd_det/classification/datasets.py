"""torchvision's data sets, for mmengine's runner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement
from PIL import UnidentifiedImageError
from torch.utils.data import Dataset
from torchvision.transforms import v2

from ..errors import AnnotationError, ConfigError, ImageError, nearest

KNOWN = ('CIFAR10', 'CIFAR100', 'FashionMNIST', 'ImageFolder', 'ImageNet', 'SVHN')


@DATASETS.register_module()
class TorchvisionDataset(Dataset):
    """A classification data set of torchvision, its transforms from a config.

    Args:
        name: One of `KNOWN`.
        root: Its folder.
        transforms: Of `torchvision.transforms.v2`, by name, on PIL images:
            [dict(type='RandomCrop', size=32, padding=4)]. What comes out becomes a
            uint8 tensor (3, H, W).
        num_images: Take so many, drawn with `seed`, as many of each class as can be.
        label_noise: Fraction of labels that are exchanged for another class's, drawn
            with `seed`.
        seed: Of both.
        classes: Names, in order, that the data must have. None takes what it has.
        **options: For torchvision's class: train=True, split='val', download=True.

    Raises:
        ConfigError: No such data set, transform or option; impossible numbers.
        AnnotationError: It is not there, or has other classes.
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
        **options: Any,
    ) -> None:
        if name not in KNOWN:
            raise ConfigError(
                'TorchvisionDataset: unknown data set',
                actual=name,
                available=nearest(name, KNOWN, limit=len(KNOWN)),
            )
        if not 0 <= label_noise < 1:
            raise ConfigError(
                'TorchvisionDataset: label_noise must be from 0 to below 1',
                actual=label_noise,
            )
        self.data = _open(name, root, options)
        self.transform = v2.Compose([*map(_transform, transforms), v2.PILToTensor()])
        names = tuple(
            map(str, getattr(self.data, 'classes', ()) or _numbers(self.data))
        )
        if classes is not None and tuple(classes) != names:
            raise AnnotationError(
                f'{name} at {root} has other classes, or another order',
                expected=tuple(classes),
                actual=names,
                hint=f'classes={names}',
            )
        self.metainfo = dict(classes=names)
        labels = _labels(self.data)
        draw = np.random.default_rng(seed)
        self.indices = _some_of_each(labels, num_images, draw)
        self.labels = labels[self.indices]
        _exchange(self.labels, label_noise, len(names), draw)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self.indices[index])
        try:
            image, _ = self.data[number]
            image = self.transform(image.convert('RGB'))
        except (UnidentifiedImageError, OSError) as error:
            raise ImageError(
                f'image {number} of {type(self.data).__name__} cannot be read',
                actual=str(error),
                hint='copy or unpack it again, or take it out of its folder',
            ) from error
        sample = BaseDataElement(metainfo=dict(img_id=number))
        sample.gt_label = torch.tensor([int(self.labels[index])])
        return dict(inputs=image, data_samples=sample)


def _open(name: str, root: str, options: dict[str, Any]) -> Any:
    try:
        return getattr(torchvision.datasets, name)(root, **options)
    except TypeError as error:
        raise ConfigError(
            f'TorchvisionDataset: {name} takes no such option', actual=str(error)
        ) from error
    except (RuntimeError, OSError) as error:
        folder = Path(root)
        raise AnnotationError(
            f'{name} is not at {root}',
            expected='the files as torchvision knows them',
            actual=str(error).splitlines()[0],
            available=sorted(p.name for p in folder.iterdir())[:8]
            if folder.is_dir()
            else (),
            hint='root=..., or download=True',
        ) from error


def _transform(cfg: dict) -> Any:
    kind = cfg.get('type') if isinstance(cfg, dict) else None
    cls = getattr(v2, str(kind), None)
    if not isinstance(cls, type):
        known = [n for n in dir(v2) if isinstance(getattr(v2, n), type)]
        raise ConfigError(
            'TorchvisionDataset: torchvision.transforms.v2 has no such transform',
            actual=kind,
            available=nearest(str(kind), known),
        )
    rest = {k: v for k, v in cfg.items() if k not in ('type', '_scope_')}
    try:
        return cls(**rest)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f'TorchvisionDataset: {kind} cannot be built', actual=str(error)
        ) from error


def _labels(data: Any) -> np.ndarray:
    found = getattr(data, 'targets', getattr(data, 'labels', None))
    return np.asarray(found, dtype=np.int64).copy()


def _numbers(data: Any) -> list[int]:
    return sorted(set(_labels(data).tolist()))


def _some_of_each(
    labels: np.ndarray, count: int | None, draw: np.random.Generator
) -> np.ndarray:
    """Indices of `count` images, classes in turn; of all where it is None."""
    if count is None:
        return np.arange(len(labels))
    if not 0 < count <= len(labels):
        raise ConfigError(
            'TorchvisionDataset: num_images must be from 1 to as many as there are',
            actual=count,
            expected=f'at most {len(labels)}',
        )
    order = draw.permutation(len(labels))
    # The k-th image of its class, in that order: first all first ones, and so on.
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        rank[own] = np.arange(len(own))
    return np.sort(order[np.argsort(rank[order], kind='stable')][:count])


def _exchange(
    labels: np.ndarray, share: float, classes: int, draw: np.random.Generator
) -> None:
    """Put another class in the place of so many labels."""
    wrong = draw.permutation(len(labels))[: round(share * len(labels))]
    labels[wrong] = (labels[wrong] + draw.integers(1, classes, len(wrong))) % classes
