"""The smallest real things for image classification; see `tiny.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from PIL import Image

CLASSES = ('blue', 'green', 'red')
COLOURS = ((40, 40, 220), (40, 200, 40), (220, 40, 40))


def classifier(depth: int = 8, base_channels: int = 4, **more: Any) -> dict[str, Any]:
    """Config of a tiny CIFAR ResNet for three classes."""
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            type='ClassifierPreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
        ),
        backbone=dict(type='CifarResNet', depth=depth, base_channels=base_channels),
        num_classes=3,
        **more,
    )


def build(cfg: dict[str, Any], seed: int = 0) -> Any:
    """The model, its weights drawn with `seed`."""
    torch.manual_seed(seed)
    model = MODELS.build(cfg)
    model.init_weights()
    return model


def batch(labels: tuple[int, ...] = (0, 1, 2, 1), side: int = 16) -> dict[str, list]:
    """Noise with these labels, as a dataloader yields it."""
    draw = torch.Generator().manual_seed(len(labels))
    shape = (3, side, side)
    inputs = [
        torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8) for _ in labels
    ]
    samples = []
    for label in labels:
        sample = BaseDataElement()
        sample.gt_label = torch.tensor([label])
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def write_folder(
    root: Path,
    count: int | tuple[int, ...] = 4,
    classes: tuple[str, ...] = CLASSES,
    side: int = 16,
) -> Path:
    """Image folders of noise around each class's colour, so many images of each."""
    draw = np.random.default_rng(0)
    counts = (count,) * len(classes) if isinstance(count, int) else count
    for number, (name, images) in enumerate(zip(classes, counts, strict=True)):
        (root / name).mkdir(parents=True)
        for index in range(images):
            noise = draw.integers(-30, 30, (side, side, 3))
            pixels = np.clip(np.array(COLOURS[number % 3]) + noise, 0, 255)
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(root / name / f'{index}.png')
    return root


def folder(root: Path, **more: Any) -> dict[str, Any]:
    """Config of the data set of `write_folder`."""
    cfg = dict(type='TorchvisionDataset', name='ImageFolder', root=str(root))
    return {**cfg, **more}


def runner_cfg(
    model: dict[str, Any], data: Path, work_dir: Path, epochs: int = 1, **more: Any
) -> Config:
    """A whole training on the data of `write_folder`, which is test data as well."""
    loader = dict(
        batch_size=6,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=folder(data, cache=True),
    )
    test = {**loader, 'sampler': dict(type='DefaultSampler', shuffle=False)}
    metric = dict(type='ClassAccuracy', topk=(1, 2))
    optimizer = dict(type='SGD', lr=0.05, momentum=0.9)
    cfg: dict[str, Any] = dict(
        default_scope='mmdet',
        custom_imports=dict(imports=['mkd_det']),
        model=model,
        train_dataloader=loader,
        val_dataloader=test,
        test_dataloader=test,
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=epochs),
        val_cfg=dict(),
        test_cfg=dict(),
        val_evaluator=metric,
        test_evaluator=metric,
        optim_wrapper=dict(optimizer=optimizer),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        log_level='WARNING',
        randomness=dict(seed=0),
        work_dir=str(work_dir),
        **more,
    )
    return Config(cfg, format_python_code=False)
