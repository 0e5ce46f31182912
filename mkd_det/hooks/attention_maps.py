"""Attention maps of student and teachers beside an image, as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.visualization import Visualizer
from torch import Tensor, nn
from torch.nn import functional

from ..distiller.model import Distiller
from ..errors import ConfigError, TapNotFoundError, nearest_names
from ..functional import attention_map
from ..heads.running import run_features
from ..structures import Levels
from ..taps import Tap, capture, frozen_state

CAPTION = 18  # pixels above each tile
# Path of the neck, whose maps are shown whether terms read them or not.
NECK = 'neck'


def draw_attention(
    distiller: Distiller,
    samples: Sequence[Any],
    collate: Any,
    names: Sequence[str] | None = None,
    height: int = 192,
    student: nn.Module | None = None,
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield a picture for each image and tap: a row a level, a column a model.

    Args:
        distiller: The distiller, its teachers loaded.
        samples: Samples of a dataset.
        collate: Makes a batch of a list of samples.
        names: Names of taps or paths of modules; None for the neck, and for all taps
            that the terms read and that yield feature maps in student and a teacher.
        height: Height of one drawn image, in pixels.
        student: The plain student, to show it instead of the distiller's.

    Yields:
        Name of the tap, number of the sample, and the picture (H, W, 3) in RGB.

    Raises:
        ConfigError: The student has no such tap or module.
    """
    taps = find_taps(distiller, names)
    for number, sample in enumerate(samples):
        image = _to_picture(sample['inputs'])
        batch = collate([sample])
        levels, size = _read(distiller, taps, batch, student, names is None)
        for tap in taps['student']:
            columns = {
                owner: _overlays(seen[tap], image, size)
                for owner, seen in levels.items()
                if tap in seen
            }
            if _is_shown(columns, names is not None):
                yield tap, number, _arrange(image, columns, height)


def _is_shown(columns: dict[str, list], asked: bool) -> bool:
    """Tell whether a picture has the student; unless it was asked for, a teacher."""
    others = [drawn for owner, drawn in columns.items() if owner != 'student']
    return bool(columns.get('student')) and (asked or any(others))


def find_taps(
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
    distiller: Distiller,
    taps: dict[str, dict[str, Tap]],
    batch: dict,
    student: Any = None,
    silent: bool = False,
) -> tuple[dict[str, dict[str, Levels]], tuple[int, int]]:
    """Return levels by owner and tap for a batch of one, and its padded size.

    Only features are run. Without `silent` a tap elsewhere, such as of a second stage,
    is an error.
    """
    student = distiller.student if student is None else student
    data = student.data_preprocessor(batch, False)
    inputs, samples = data['inputs'], data.get('data_samples')
    levels: dict[str, dict[str, Levels]] = {}
    for owner, named in taps.items():
        model, images = student, inputs
        if owner != 'student':
            model = distiller.teachers[owner].model
            images = distiller.renormalizers[owner](inputs, samples)
        with frozen_state(model), capture(model, named, silent=silent) as seen:
            run_features(model, images, samples, rehearse=owner == 'student')
        levels[owner] = seen
    return levels, (inputs.shape[-2], inputs.shape[-1])


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
