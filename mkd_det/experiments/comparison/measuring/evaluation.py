"""Evaluates a model on a split of a config, as mmengine's loops do."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.registry import EVALUATOR
from mmengine.runner import Runner

from ....class_maps.class_map import ClassMap
from ....class_maps.samples import shared_metainfo, shared_samples
from ....io.random_state import preserved_random_state
from ....taps import frozen_state
from .image_results import ImageResults, read_images


@dataclass(frozen=True)
class Evaluation:
    """What a model reaches on a split.

    Args:
        metrics: Its metrics.
        images: Results of single images; None where they are unknown.
    """

    metrics: Mapping[str, float]
    images: ImageResults | None = None


def evaluate(
    model: Any,
    cfg: Config,
    split: str = 'val',
    classes: ClassMap | None = None,
    key: str = '',
) -> Evaluation:
    """Return the metrics of a model on a split of a config.

    Args:
        model: The model.
        cfg: A config with dataloader and evaluator of the split.
        split: 'val' or 'test'.
        classes: Its class map: the classes that it shares with the data are measured.
        key: Key of the figure whose images are wanted, if any.
    """
    model.to(get_device())
    quiet = contextlib.redirect_stdout(io.StringIO())  # pycocotools prints its tables
    with quiet, preserved_random_state():
        loader = Runner.build_dataloader(deepcopy(cfg[f'{split}_dataloader']), seed=0)
        evaluator = _build_evaluator(deepcopy(cfg[f'{split}_evaluator']))
        meta = getattr(loader.dataset, 'metainfo', None)
        evaluator.dataset_meta = shared_metainfo(meta, classes) if classes else meta
        with frozen_state(model):
            for batch in loader:
                found = getattr(model, f'{split}_step')(batch)
                found = shared_samples(found, classes) if classes else found
                if found:
                    evaluator.process(found, batch)
        results = [list(metric.results) for metric in evaluator.metrics]
        metrics = evaluator.evaluate(len(loader.dataset))
    model.cpu()
    # COCO yields -1 where the data has no such objects.
    known = {
        name: math.nan if value == -1 else float(value)
        for name, value in metrics.items()
        if isinstance(value, (int, float))
    }
    images = None
    if key in known:
        read = map(read_images, evaluator.metrics, results, [key] * len(results))
        images = next((one for one in read if one is not None), None)
    if images is not None:
        (value,) = images.values(np.ones((1, len(images.images)), int))
        # A metric of another kind, with figures of its own; COCO's have three digits.
        if not math.isclose(value, known[key], abs_tol=6e-4):
            images = None
    return Evaluation(known, images)


def _build_evaluator(given: Any) -> Evaluator:
    if isinstance(given, Mapping) and 'metrics' in given:
        return EVALUATOR.build(given, default_args=dict(type='Evaluator'))
    return Evaluator(given)
