"""Unlabelled pictures of the demo's kind, painted when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from mmdet.registry import DATASETS

from ..errors import ConfigError
from .digit_painter import Painter
from .digits import SPLITS, DigitSettings, training_painter
from .unlabeled import UNLABELED, UnlabeledImages


@DATASETS.register_module()
class UnlabeledDigits(UnlabeledImages):
    """Pictures of the demo's kind without labels, as many as a training can take.

    A picture is painted when it is asked for, from the scans and photographs of the
    demo's training images; its number and the seed determine it. So it is the same in
    every process, on every rank and after a resume, and with
    `MultiSourceSampler`, which draws each number once before it draws any again,
    no picture is seen twice.

    A pipeline begins with `LoadImageFromNDArray` in place of `LoadImageFromFile`.

    Args:
        pictures: Number of pictures; they take no memory.
        size: Width and height in pixels.
        seed: Seed of the demo's data, see `make_digits`.
        pipeline: Transforms.
        **kwargs: Other arguments of `BaseDetDataset`, without effect on what is
            painted.

    Raises:
        ConfigError: There are no pictures.
        EnvironmentVersionError: The extra `demo` is not installed.
    """

    def __init__(
        self,
        pictures: int = 100_000,
        size: int = 160,
        seed: int = 0,
        pipeline: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        if pictures < 1:
            raise ConfigError(
                'UnlabeledDigits: there are no pictures', actual=f'pictures={pictures}'
            )
        self.pictures = pictures
        self.settings = DigitSettings(0, 0, size, seed)
        super().__init__(images=(), pipeline=list(pipeline), **kwargs)

    def full_init(self) -> None:
        """Do nothing: there is no list to read."""
        self._fully_initialized = True

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self.pictures

    def get_data_info(self, idx: int) -> dict:
        """Return what is known of a picture before it is painted.

        Args:
            idx: Its number.

        Returns:
            `img_id`, `height`, `width`, no `instances`, and `unlabeled=True`.
        """
        return {
            'img_id': f'unlabeled-{idx}',
            'height': self.settings.size,
            'width': self.settings.size,
            'instances': [],
            'sample_idx': idx,
            UNLABELED: True,
        }

    def prepare_data(self, idx: int) -> Any:
        """Return a picture through the pipeline.

        `LoadImageFromNDArray` takes it as `img`, (size, size, 3), uint8, BGR.

        Args:
            idx: Its number.
        """
        # Behind the seeds of the demo's splits, which it must not repeat.
        scene = self._painter.paint([self.settings.seed, len(SPLITS), idx])
        image = np.ascontiguousarray(scene.image[..., ::-1])
        return self.pipeline({'img': image, **self.get_data_info(idx)})

    def check(self, images: int) -> str:
        """Paint a picture, and say how many there are.

        Args:
            images: Without effect; there are no files that could be broken.
        """
        self.get_data_info(0)
        return f'{len(self)} pictures without labels, painted when they are needed'

    @property
    def paths(self) -> list[str]:
        """No paths: there are no files."""
        return []

    @cached_property
    def _painter(self) -> Painter:
        return training_painter(self.settings)
