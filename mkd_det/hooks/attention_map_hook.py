"""Draws attention maps of student and teachers during training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import zip_longest
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.visualization import Visualizer
from torch import Tensor, nn
from torch.nn import functional

from ..distiller.model import Distiller
from ..errors import ConfigError, TapNotFoundError, nearest_names
from ..functional import attention_map
from ..heads.running import run_features
from ..io.random_state import preserved_random_state
from ..structures import Levels
from ..taps import Tap, capture, frozen_state
from ..training.runtime import as_distiller, get_distiller

CAPTION = 18  # pixels above each tile
# Path of the neck, whose maps are shown whether terms read them or not.
NECK = 'neck'


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
        _find_taps(as_distiller(model, 'AttentionMapHook'), self.taps)
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

    # -- reading -----------------------------------------------------------------

    def _draw(self, runner: Runner, distiller: Distiller, step: int) -> None:
        """Draw a picture for each image and tap, without a trace in the training."""
        taps = _find_taps(distiller, self.taps)
        dataset, indices = self._chosen(runner)
        if not is_main_process():
            return
        with preserved_random_state():
            for number, index in enumerate(indices):
                sample = dataset[index]
                image = _to_picture(sample['inputs'])
                batch = runner.val_dataloader.collate_fn([sample])
                levels, size = _read(distiller, taps, batch)
                for tap in taps['student']:
                    columns = {
                        owner: _overlays(seen[tap], image, size)
                        for owner, seen in levels.items()
                        if tap in seen
                    }
                    if self._is_shown(columns):
                        name = re.sub(r'[^\w.-]+', '_', f'attention_{tap}_{number}')
                        picture = _arrange(image, columns, self.height)
                        runner.visualizer.add_image(name, picture, step=step)

    def _is_shown(self, columns: dict[str, list]) -> bool:
        """Tell whether a picture has the student; by default also a teacher."""
        others = [drawn for owner, drawn in columns.items() if owner != 'student']
        return bool(columns['student']) and (self.taps is not None or any(others))

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


def _find_taps(
    distiller: Distiller, names: Sequence[str] | None
) -> dict[str, dict[str, Tap]]:
    """Return taps by owner and name. Each names a module of the student at least.

    Args:
        distiller: The distiller.
        names: Names of taps or paths of modules; None for those shown by default.

    Raises:
        ConfigError: The student has no such tap or module.
    """
    models: dict[str, nn.Module] = {'student': distiller.student}
    models |= {n: t.model for n, t in distiller.teachers.items() if t.runs}
    known = {owner: _known_taps(distiller, owner) for owner in models}
    found: dict[str, dict[str, Tap]] = {owner: {} for owner in models}
    for name in _default_names(distiller) if names is None else names:
        for owner, model in models.items():
            tap = known[owner].get(name) or Tap.parse(name)
            try:
                tap.resolve(model)
            except TapNotFoundError:
                if owner == 'student' and names is not None:
                    raise _no_tap(name, distiller.student, known['student']) from None
                continue
            found[owner][name] = tap
    for owner in models:  # pictures are made of what the student has
        found[owner] = {n: t for n, t in found[owner].items() if n in found['student']}
    return found


def _known_taps(distiller: Distiller, owner: str) -> dict[str, Tap]:
    """Return the taps of an owner: those that terms read, and all of the config."""
    config = distiller.config
    texts = dict(config.taps)
    if owner != 'student':
        texts |= config.teachers[owner].taps
    taps = {name: Tap.parse(text) for name, text in texts.items()}
    return taps | distiller.plan.taps.get(owner, {})


def _default_names(distiller: Distiller) -> list[str]:
    """Return the names of the taps that some term reads, and the neck's."""
    plan = distiller.plan.taps
    names = list(dict.fromkeys(name for taps in plan.values() for name in taps))
    # Taps of branches are the student's alone: nothing stands beside them.
    names = [name for name in names if '.' not in name]
    own = {name: str(tap) for name, tap in _known_taps(distiller, 'student').items()}
    if NECK not in {own.get(name) for name in names}:
        neck = next((name for name, path in own.items() if path == NECK), NECK)
        names.append(neck)
    return names


def _no_tap(name: str, student: nn.Module, known: Mapping[str, Tap]) -> ConfigError:
    modules = [n for n, _ in student.named_modules() if n and n.count('.') < 2]
    return ConfigError(
        'AttentionMapHook: no tap or module of the student has that name',
        actual=name,
        available=nearest_names(name, [*known, *modules]),
    )


def _read(
    distiller: Distiller, taps: dict[str, dict[str, Tap]], batch: dict
) -> tuple[dict[str, dict[str, Levels]], tuple[int, int]]:
    """Return levels by owner and tap for a batch of one, and its padded size."""
    data = distiller.student.data_preprocessor(batch, False)
    inputs, samples = data['inputs'], data.get('data_samples')
    levels: dict[str, dict[str, Levels]] = {}
    for owner, named in taps.items():
        model, images = distiller.student, inputs
        if owner != 'student':
            model = distiller.teachers[owner].model
            images = distiller.renormalizers[owner](inputs, samples)
        with frozen_state(model), capture(model, named) as seen:
            run_features(model, images, samples, rehearse=owner == 'student')
        levels[owner] = seen
    return levels, (inputs.shape[-2], inputs.shape[-1])


# -- drawing -----------------------------------------------------------------


def _to_picture(inputs: Tensor) -> np.ndarray:
    """Turn the image of a pipeline, BGR (3, H, W), into RGB (H, W, 3)."""
    picture = inputs.detach().cpu().float().clamp(0, 255).byte().permute(1, 2, 0)
    return np.ascontiguousarray(picture.numpy()[..., ::-1])


def _overlays(
    levels: Levels, image: np.ndarray, size: tuple[int, int]
) -> list[tuple[str, np.ndarray]]:
    """Return a caption and an overlay for each level that is a feature map.

    Args:
        levels: Feature maps (1, C, H, W).
        image: RGB, as large as the image before padding.
        size: (H, W) after padding: the area that the maps cover.
    """
    drawn = []
    for level in levels:
        if not isinstance(level, Tensor) or level.dim() != 4:
            continue
        attention = attention_map(level.float())
        attention = functional.interpolate(attention, size, mode='bilinear')
        attention = attention[0, :, : image.shape[0], : image.shape[1]]
        overlay = Visualizer.draw_featmap(torch.nan_to_num(attention), image)
        drawn.append((f'{level.shape[1]}x{level.shape[2]}x{level.shape[3]}', overlay))
    return drawn


def _arrange(
    image: np.ndarray, columns: dict[str, list[tuple[str, np.ndarray]]], height: int
) -> np.ndarray:
    """Arrange a row for each level and a column for each owner, with captions."""
    rows = []
    blank = np.full_like(image, 255)
    for level in zip_longest(*columns.values()):
        tiles = [_tile(image, 'image', height)]
        for owner, drawn in zip(columns, level, strict=True):
            shape, overlay = drawn or ('', blank)
            tiles.append(_tile(overlay, f'{owner} {shape}', height))
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows, axis=0)


def _tile(picture: np.ndarray, caption: str, height: int) -> np.ndarray:
    width = max(round(picture.shape[1] * height / picture.shape[0]), 1)
    tile = np.full((height + CAPTION, width + 4, 3), 255, np.uint8)
    tile[CAPTION:, :width] = cv2.resize(picture, (width, height))
    font = cv2.FONT_HERSHEY_SIMPLEX
    long = cv2.getTextSize(caption, font, 0.42, 1)[0][0]
    scale = 0.42 * min(1, width / max(long, 1))
    cv2.putText(tile, caption, (2, 13), font, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return tile
