"""Runs a benchmark of a distill config."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device

from ...errors import ConfigError, nearest_names
from ...preflight.checks import check_amp
from ...teachers.engine import SPEEDS
from ...training.runtime import check_is_distill
from .batches import data_batches, random_batches
from .measure import measure_seconds, peak_bytes
from .models import CACHED, BenchmarkModels
from .report import summarize


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Args:
        iters: Rounds that count.
        warmup: Rounds before them (with a cache, one for every batch).
        batches: Number of batches that take turns.
        batch_size: Images in a batch; the config's by default.
        image_size: (H, W), or one side for both; the config's by default.
        boxes: Boxes on each random image.
        data: Whether to take the config's training data instead of random images.
        device: Where to run; a GPU if there is one, by default.
        threads: CPU threads; torch's own choice by default.
        speeds: Speeds of the teachers in K, or 'cached'; the config's by default.
        each_count: Whether K runs with one, two, ... all teachers taking part.

    Raises:
        ConfigError: A value is not possible.
    """

    iters: int = 20
    warmup: int = 4
    batches: int = 4
    batch_size: int | None = None
    image_size: Sequence[int] | None = None
    boxes: int = 12
    data: bool = False
    device: str | None = None
    threads: int | None = None
    speeds: Sequence[str] = ()
    each_count: bool = False

    def __post_init__(self) -> None:
        known = (*SPEEDS, CACHED)
        for speed in self.speeds:
            if speed not in known:
                raise ConfigError(
                    f'--speeds: there is no speed {speed!r}',
                    actual=speed,
                    available=nearest_names(speed, known),
                )
        if self.each_count and len(self.speeds) > 1:
            raise ConfigError('--sources goes with one speed', actual=self.speeds)
        for name in ('iters', 'batches'):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f'--{name} must be at least 1', actual=getattr(self, name)
                )


def run_benchmark(cfg: Config, settings: Settings, name: str) -> dict[str, Any]:
    """Measure a training step of a distill config.

    Args:
        cfg: The config.
        settings: How to measure.
        name: Name of the config, for the title.

    Returns:
        All figures, ready for json.

    Raises:
        MkdError: The config cannot be trained here, or is no distill config.
    """
    check_is_distill(cfg)
    check_amp(cfg)
    device = settings.device or get_device()
    check_device(device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    cfg = deepcopy(cfg)
    if settings.batch_size:
        cfg.train_dataloader.batch_size = settings.batch_size
    machine = describe_machine(device)
    models = BenchmarkModels(cfg, device, settings.speeds, settings.each_count)
    if settings.data:
        batches = data_batches(cfg, settings.batches)
    else:
        batches = random_batches(
            cfg, settings.batches, models.classes, settings.boxes, settings.image_size
        )
    seconds = measure_seconds(models, batches, settings.iters, settings.warmup)
    peaks = {
        phase: peak_bytes(step, models.prepare(phase, batches[0]), device)
        for phase, step in models.phases().items()
    }
    shapes = sorted({tuple(image.shape[-2:]) for b in batches for image in b['inputs']})
    images = len(batches[0]['inputs'])
    return dict(
        title=f'{name}: {images} images of '
        + ', '.join(f'{h}x{w}' for h, w in shapes)
        + f' on {device}, {settings.iters} rounds',
        config=name,
        data='config' if settings.data else f'random, {settings.boxes} boxes an image',
        batch_size=images,
        image_sizes=shapes,
        warmup=settings.warmup,
        iters=settings.iters,
        machine=machine,
        teachers=dict(run=models.taught, random_weights=models.random),
        **summarize(models, seconds, peaks),
    )


def check_device(device: str) -> None:
    """Raise ConfigError for a device that torch does not know or have."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            '--device: torch cannot compute there',
            expected='cpu, cuda, cuda:1, ...',
            actual=f'{device!r}: {str(error).splitlines()[0]}',
        ) from None


def describe_machine(device: str) -> dict[str, Any]:
    """Return what a reader must know of the machine to compare seconds."""
    name = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        lines = info.read_text().splitlines()
        models = [line for line in lines if line.startswith('model name')]
        name = models[0].partition(':')[2].strip() if models else name
    gpu = torch.cuda.get_device_name(device) if device.startswith('cuda') else None
    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else None
    return dict(
        cpu=name,
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        gpu=gpu,
        torch=torch.__version__,
        load_average=load,
    )
