"""How much memory a training step takes, and which batch size fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper

from ..class_maps.counting import class_count
from ..data.pipelines import image_size, loads_masks, pipeline_of
from ..distiller.model import Distiller
from ..errors import ConfigError
from ..io.launched import launched_processes
from ..io.quiet import suppress_info_logs
from ..io.random_state import preserved_random_state
from ..structures import bytes_in
from ..training.runtime import build_model
from .benchmark.batches import random_batch
from .benchmark.measure import peak_bytes
from .doctor.checks.resources import gigabytes
from .doctor.timing import free_memory

# Part of the free memory that a chosen batch may take: images differ in objects.
SHARE = 0.8
# Images that are measured with, their area at most, and objects on each. Maps grow
# with the area, so that a small area is measured in a second.
IMAGES, AREA, BOXES = 2, 416 * 416, 8


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step.

    Args:
        fixed: Weights, gradients, the optimizer's state and the teachers.
        image: What each image of a batch adds.
    """

    fixed: float
    image: float

    def of(self, batch: int) -> float:
        """Return the bytes of a step.

        Args:
            batch: Images in the batch.
        """
        return self.fixed + self.image * batch


def measure_memory(cfg: Config) -> StepMemory:
    """Estimate the memory of a training step, from two steps on small random images.

    Args:
        cfg: Config of a training, with teachers or without.

    Raises:
        Exception: Whatever a model says that does not take random images with boxes.
    """
    device = get_device()
    dataset = cfg.train_dataloader.dataset
    whole, masks = image_size(pipeline_of(dataset)), loads_masks(dataset)
    factor = min(1.0, (AREA / (whole[0] * whole[1])) ** 0.5)
    size = tuple(max(64, round(side * factor / 32) * 32) for side in whole)
    with preserved_random_state(), suppress_info_logs():
        model: Any = build_model(cfg).to(device).train()
        student = model.student if isinstance(model, Distiller) else model
        classes = class_count(student) or 1
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper.copy())

        def step(_: Any = None) -> None:
            batch = random_batch(
                (size[0], size[1]), IMAGES, BOXES, classes, masks=masks
            )
            model.train_step(batch, wrapper)

        step()  # settles how teachers run, and makes the optimizer's state
        peak = peak_bytes(step, {}, device)
    gradients = bytes_in([p for p in model.parameters() if p.requires_grad])
    scale = whole[0] * whole[1] / (size[0] * size[1])
    image = max(peak - gradients, 0) / IMAGES * scale
    return StepMemory(_resident(model, wrapper) + gradients, image)


def _resident(model: Any, wrapper: Any) -> int:
    """Return what stays between steps: weights, optimizer state, teachers."""
    parts = [*model.parameters(), *model.buffers()]
    many = wrapper.values() if hasattr(wrapper, 'values') else [wrapper]
    total = bytes_in(parts) + sum(bytes_in(one.optimizer.state_dict()) for one in many)
    if isinstance(model, Distiller):
        for teacher in model.teachers.values():
            copies = 1 if teacher.config.speed == 'off' else 2
            total += copies * bytes_in(teacher.model.state_dict())
    return total


def estimate_memory(cfg: Config) -> tuple[StepMemory | None, str]:
    """Return the memory of a training step, or why it cannot be estimated.

    Args:
        cfg: Config of a training, with teachers or without.

    Raises:
        ConfigError: There is no room for two small images.
    """
    try:
        return measure_memory(cfg), ''
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ConfigError(
            'no room for a training step with two small images',
            actual=str(error).partition('\n')[0],
            fix='a machine with more memory, or one that does nothing else',
        ) from error
    except Exception as error:  # such as classes of whole images
        first = (str(error).splitlines() or [''])[0]
        return None, f'{type(error).__name__}: {first}'


def batch_of(cfg: Config) -> int:
    """Return the batch size of a config.

    Args:
        cfg: Config of a training.
    """
    return int(cfg.train_dataloader.get('batch_size') or 1)


def describe_batch(memory: StepMemory, batch: int, own: int) -> str:
    """Return a batch size in words: why it is another one, and what it takes.

    Args:
        memory: Of a step.
        batch: The batch size.
        own: That of the config.
    """
    free = free_bytes()
    return (
        f'{batch}'
        + ('' if batch == own else f' instead of {own}')
        + f': a step needs about {gigabytes(memory.of(batch))} of memory'
        + ('' if free is None else f', {gigabytes(free)} are free')
    )


def wanted_batch(cfg: Config, ranks: int | None = None) -> int:
    """Return the batch size to have, if there is memory for it.

    On a GPU that is the one which the learning rate is for, where the config says it;
    else that of the config.

    Args:
        cfg: Config of a training.
        ranks: Processes that train it; those of the launch by default.
    """
    own = batch_of(cfg)
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if not base or not torch.cuda.is_available():
        return own
    return max(int(base) // (ranks or launched_processes()), own)


def fitting_batch(memory: StepMemory, wanted: int, free: int | None) -> int:
    """Return the largest batch size that fits: the wanted one, halved until it does.

    Args:
        memory: Of a step.
        wanted: The batch size to have.
        free: Free bytes; None where they are not known.

    Raises:
        ConfigError: Not even one image fits.
    """
    batch = wanted
    while free is not None and batch > 1 and memory.of(batch) > SHARE * free:
        batch //= 2
    if free is not None and memory.of(batch) > free:
        raise no_room(memory, batch, free, '')
    return batch


def check_room(memory: StepMemory, batch: int, free: int | None) -> None:
    """Raise unless a step with the batch size of a config fits.

    Args:
        memory: Of a step.
        batch: The batch size.
        free: Free bytes; None where they are not known.

    Raises:
        ConfigError: It does not fit.
    """
    if free is None or memory.of(batch) <= free:
        return
    smaller = int((SHARE * free - memory.fixed) / max(memory.image, 1))
    fix = f'--cfg-options train_dataloader.batch_size={smaller}' if smaller > 0 else ''
    raise no_room(memory, batch, free, fix)


def no_room(memory: StepMemory, batch: int, free: int, fix: str) -> ConfigError:
    """Return the error of a training that does not fit into memory.

    Args:
        memory: Of a step.
        batch: The batch size.
        free: Free bytes.
        fix: What to do; by default, to have smaller images or another machine.
    """
    return ConfigError(
        f'no room for the memory estimate of a training step with a batch of {batch}',
        expected=f'about {gigabytes(memory.of(batch))} of memory on {get_device()}:'
        f' {gigabytes(memory.fixed)} for the models, and {gigabytes(memory.image)} for'
        ' each image',
        actual=f'{gigabytes(free)} are free',
        fix=fix
        or 'a machine with more memory; or smaller images, by Resize in the pipelines'
        ' of the student',
    )


def free_bytes() -> int | None:
    """Return the free bytes where a training would run; None if they are unknown."""
    return free_memory(get_device())


def batch_part(
    cfg: Config, batch: int, ranks: int | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return what to change in a config for a batch size, and what is said of it.

    The learning rate is scaled by mmengine when the training starts, in proportion to
    the images of a step.

    Args:
        cfg: Config of a training.
        batch: The batch size.
        ranks: Processes that train it; those of the launch by default.
    """
    own = batch_of(cfg)
    given = cfg.get('auto_scale_lr') or {}
    base = int(given.get('base_batch_size') or own)
    images = batch * (ranks or launched_processes())
    parts: dict[str, Any] = {}
    notes = []
    if batch != own:
        parts['train_dataloader'] = dict(batch_size=batch)
    if images != base:
        scaling: dict[str, Any] = dict(enable=True)
        if not given.get('base_batch_size'):
            scaling['base_batch_size'] = base
        parts['auto_scale_lr'] = scaling
        rate = (cfg.optim_wrapper.get('optimizer') or {}).get('lr')
        shown = (
            f'{rate:g} to {rate * images / base:g}'
            if isinstance(rate, (int, float))
            else f'by {images / base:g}'
        )
        notes.append(
            f'learning rate scaled, {shown}: it is for {base} images a step, and'
            f' there are {images} (auto_scale_lr)'
        )
    return parts, notes
