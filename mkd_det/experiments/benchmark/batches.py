"""Batches to measure with: random ones, or some of the config's training data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import Tensor

from ...data.pipelines import image_size, loads_masks, pipeline_of

Batch = dict[str, Any]


def random_batch(
    size: tuple[int, int],
    images: int,
    boxes: int,
    classes: int,
    seed: int = 0,
    masks: bool = False,
) -> Batch:
    """Return a batch of noise with boxes of all sizes, as a dataloader yields it.

    Args:
        size: (H, W) of the images, in pixels.
        images: Number of images.
        boxes: Number of boxes on each.
        classes: Labels are below this.
        seed: Seed of the noise.
        masks: Whether the objects have masks; they fill their boxes.
    """
    from mmdet.structures import DetDataSample

    draw = torch.Generator().manual_seed(seed)
    whole = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
    inputs, samples = [], []
    for index in range(images):
        inputs.append(torch.randint(256, (3, *size), generator=draw, dtype=torch.uint8))
        # Sides between 1/16 and 1/2 of the image's.
        sides = torch.rand(boxes, 2, generator=draw) * (7 / 16) + 1 / 16
        corner = torch.rand(boxes, 2, generator=draw) * (1 - sides)
        labels = torch.randint(classes, (boxes,), generator=draw)
        sample = DetDataSample(
            metainfo=dict(
                img_id=index,
                img_path='',
                img_shape=size,
                ori_shape=size,
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + sides], 1) * whole, labels=labels
        )
        if masks:
            sample.gt_instances.masks = _filled(sample.gt_instances.bboxes, size)
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def _filled(boxes: Tensor, size: tuple[int, int]) -> Any:
    """Return the masks of boxes, without what rounding cuts off."""
    from mmdet.structures.mask import BitmapMasks

    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (left, top, right, bottom) in zip(
        masks, boxes.round().int().tolist(), strict=True
    ):
        mask[top:bottom, left:right] = 1
    return BitmapMasks(masks, *size)


def data_batches(cfg: Config, count: int) -> list[Batch]:
    """Return the first batches of the config's training data."""
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    return list(islice(loader, count))


def random_batches(
    cfg: Config,
    count: int,
    classes: int,
    boxes: int,
    size: Sequence[int] | None = None,
) -> list[Batch]:
    """Return random batches of the config's batch size.

    Args:
        cfg: Config of a training.
        count: Number of batches.
        classes: Labels are below this.
        boxes: Number of boxes on each image.
        size: (H, W), or one side for both; the pipeline's size by default.
    """
    dataset = cfg.train_dataloader.dataset
    size, masks = size or image_size(pipeline_of(dataset)), loads_masks(dataset)
    images = cfg.train_dataloader.batch_size
    return [
        random_batch((size[0], size[-1]), images, boxes, classes, seed, masks)
        for seed in range(count)
    ]
