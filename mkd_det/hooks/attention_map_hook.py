"""Draws attention maps of student and teachers during training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from ..distiller.model import Distiller
from ..errors import ConfigError
from ..io.random_state import preserved_random_state
from ..training.runtime import as_distiller, get_distiller
from .attention_maps import draw_attention, find_taps


@HOOKS.register_module()
class AttentionMapHook(Hook):
    """Draws attention maps of student and teachers beside the image.

    The attention of a feature map is the sum of its squares over the channels
    (Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928). There is one picture for each
    image and tap, with a row for each level and columns for the image, the student and
    each teacher. They go to the runner's visualizer as `attention_<tap>_<image>`: PNG
    files with `LocalVisBackend`, TensorBoard with `TensorboardVisBackend`. The first
    ones are drawn before training.

    Args:
        taps: Names of taps in the config, or module paths: 'fpn',
            ['backbone.layer4', 'neck']. None for the neck, and for all taps that the
            terms read and that yield feature maps in the student and in a teacher.
        images: Number of images of the validation set, evenly spread over it; or
            their indices in it.
        interval: Epochs between two drawings; in iteration-based training,
            validations between them.
        height: Height of one drawn image, in pixels.

    Raises:
        ConfigError: There is no such tap or image, or no `val_dataloader`.
    """

    def __init__(
        self,
        taps: str | Sequence[str] | None = None,
        images: int | Sequence[int] = 4,
        interval: int = 1,
        height: int = 192,
    ) -> None:
        if interval < 1 or height < 16:
            raise ConfigError(
                'AttentionMapHook: interval must be at least 1, height at least 16',
                actual=(interval, height),
            )
        if isinstance(images, int) and images < 1:
            raise ConfigError('AttentionMapHook: images must be at least 1')
        self.taps = [taps] if isinstance(taps, str) else taps
        self.images, self.interval, self.height = images, interval, height
        self._validations = 0

    def check_before_start(self, cfg: Config, model: nn.Module) -> None:
        """Raise ConfigError for taps or images that do not exist.

        Args:
            cfg: Config of the training.
            model: Its model.
        """
        find_taps(as_distiller(model, 'AttentionMapHook'), self.taps)
        if cfg.get('val_dataloader') is None:
            raise _no_validation()
        if not isinstance(self.images, int):
            dataset = DATASETS.build(deepcopy(cfg.val_dataloader.dataset))
            _check_images(self.images, len(dataset))

    def before_train(self, runner: Runner) -> None:
        """Draw the maps at the start of the training."""
        distiller = get_distiller(runner, 'AttentionMapHook')
        distiller.teachers.load()
        self._draw(runner, distiller, runner.epoch)

    def after_train_epoch(self, runner: Runner) -> None:
        """Draw the maps, in epoch-based training."""
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if by_epoch and self.every_n_epochs(runner, self.interval):
            distiller = get_distiller(runner, 'AttentionMapHook')
            self._draw(runner, distiller, runner.epoch + 1)

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Draw the maps, in iteration-based training."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._validations += 1
            if self._validations % self.interval == 0:
                distiller = get_distiller(runner, 'AttentionMapHook')
                self._draw(runner, distiller, runner.iter)

    def _draw(self, runner: Runner, distiller: Distiller, step: int) -> None:
        """Draw a picture for each image and tap, without a trace in the training."""
        find_taps(distiller, self.taps)  # every rank raises, and none waits
        dataset, indices = self._chosen(runner)
        if not is_main_process():
            return
        collate = runner.val_dataloader.collate_fn
        with preserved_random_state():
            samples = [dataset[index] for index in indices]
            for tap, number, picture in draw_attention(
                distiller, samples, collate, self.taps, self.height
            ):
                name = re.sub(r'[^\w.-]+', '_', f'attention_{tap}_{number}')
                runner.visualizer.add_image(name, picture, step=step)

    def _chosen(self, runner: Runner) -> tuple[Any, list[int]]:
        """Return the validation set and the indices of the images to draw."""
        if runner.val_loop is None:
            raise _no_validation()
        dataset = runner.val_dataloader.dataset
        total = len(dataset)
        if isinstance(self.images, int):
            count = min(self.images, total)
            return dataset, [i * total // count for i in range(count)]
        _check_images(self.images, total)
        return dataset, list(self.images)


def _no_validation() -> ConfigError:
    return ConfigError(
        'AttentionMapHook draws images of the validation set',
        expected='a val_dataloader',
    )


def _check_images(indices: Sequence[int], total: int) -> None:
    """Raise ConfigError unless the validation set has these images."""
    for index in indices:
        if not 0 <= index < total:
            raise ConfigError(
                'AttentionMapHook: the validation set has no such image',
                expected=f'0 to {total - 1}',
                actual=index,
            )
