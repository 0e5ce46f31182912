"""Batches to measure with: random ones, or some of the config's training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData

Batch = dict[str, Any]


def image_size(pipeline: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Return (H, W) of the images that a pipeline yields.

    That is the last size it names; of several (multi-scale training), the largest.
    """
    found = (640, 640)
    for step in pipeline:
        for key in ('scale', 'scales', 'img_scale', 'crop_size', 'size'):
            sizes = _sizes(step.get(key))
            if sizes:
                width, height = max(sizes, key=lambda wh: wh[0] * wh[1])
                # mmcv writes scales as (W, H), crops as (H, W).
                found = (width, height) if key == 'crop_size' else (height, width)
    return found


def _sizes(value: Any) -> list[tuple[int, int]]:
    if not isinstance(value, (tuple, list)) or not value:
        return []
    if all(isinstance(v, int) for v in value) and len(value) == 2:
        return [(value[0], value[1])]
    return [size for part in value for size in _sizes(part)]


def random_batch(
    size: tuple[int, int], images: int, boxes: int, classes: int, seed: int = 0
) -> Batch:
    """Return a batch of noise with boxes of all sizes, as a dataloader yields it.

    Args:
        size: (H, W) of the images, in pixels.
        images: Number of images.
        boxes: Number of boxes on each.
        classes: Labels are below this.
        seed: Seed of the noise.
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
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


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
    while 'dataset' in dataset and 'pipeline' not in dataset:
        dataset = dataset.dataset
    size = size or image_size(dataset.get('pipeline', ()))
    images = cfg.train_dataloader.batch_size
    return [
        random_batch((size[0], size[-1]), images, boxes, classes, seed)
        for seed in range(count)
    ]
