"""Seconds and memory of training steps, measured once for all checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from ...teachers.engine_choice import speed_on
from ..benchmark.measure import measure_seconds, peak_bytes
from ..benchmark.models import BenchmarkModels
from .examination import Examination

SPEEDS = ('off', 'exact', 'fast')
# Rounds that count, and those before them.
ROUNDS, WARMUP = 2, 1


@dataclass(frozen=True)
class Times:
    """What steps take.

    Args:
        seconds: By phase, as in `benchmark`: 'S' is the plain student, 'T' the
            teachers, 'K off' and the like a step of the distiller.
        bytes: Memory of a step at the speed of the config, weights included.
    """

    seconds: dict[str, list[float]]
    bytes: int


def measured_times(case: Examination) -> Times:
    """Return what steps take, measured in turns.

    Args:
        case: What is examined.
    """
    known = case.__dict__.get('_times')
    if known is None:
        known = case.__dict__['_times'] = _measure(case)
    return known


def _measure(case: Examination) -> Times:
    case.model  # noqa: B018 (the models of the benchmark are built as it is)
    models = BenchmarkModels(case.cfg, case.device, SPEEDS)
    seconds = measure_seconds(models, case.batches, ROUNDS, WARMUP)
    phase = f'K {configured_speed(case)}'
    step = models.phases()[phase]
    peak = peak_bytes(step, models.prepare(phase, case.batches[0]), case.device)
    return Times(seconds, peak + models.resident_bytes(phase))


def configured_speed(case: Examination) -> str:
    """Return the speed of the first teacher that is read, as it is on this device."""
    teachers = case.model.teachers
    speeds = [teachers[name].config.speed for name in case.model.plan.reads]
    speed = next(iter(speeds), 'off')
    return speed_on(torch.device(case.device)) if speed == 'auto' else speed


def step_seconds(case: Examination) -> float:
    """Return the seconds of a training step at the speed of the config."""
    return median(measured_times(case).seconds[f'K {configured_speed(case)}'])


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the median ratio of the seconds of two phases, round by round."""
    return median(a / b for a, b in zip(one, other, strict=True))


def free_memory(device: str) -> int | None:
    """Return the free bytes of a device, with what this process holds.

    Args:
        device: Its name.

    Returns:
        The bytes; None where the system does not tell.
    """
    if device.startswith('cuda'):
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    info = Path('/proc/meminfo')
    for line in info.read_text().splitlines() if info.is_file() else ():
        if line.startswith('MemAvailable:'):
            return int(line.split()[1]) * 1024
    return None
