"""Seconds and peak memory of the phases."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from itertools import cycle

import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from .batches import Batch
from .models import BenchmarkModels, Phase

# Silences torch's profiler, which writes about itself to stderr.
os.environ.setdefault('KINETO_LOG_LEVEL', '6')


def measure_seconds(
    models: BenchmarkModels, batches: Sequence[Batch], iters: int, warmup: int
) -> dict[str, list[float]]:
    """Return the seconds of each phase in each round.

    Args:
        models: What to run.
        batches: They take turns; a round has one for all phases.
        iters: Rounds that count.
        warmup: Rounds before them, which do not count.
    """
    phases = models.phases()
    names = list(phases)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    supply = cycle(batches)
    for turn in tqdm(range(-warmup, iters), desc='rounds of S, T, K', disable=None):
        batch = next(supply)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            own = models.prepare(name, batch)
            _wait(models.device)
            start = time.perf_counter()
            phases[name](own)
            _wait(models.device)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_bytes(phase: Phase, batch: Batch, device: str) -> int:
    """Return the most bytes that one step held at once, beyond what it found.

    On a GPU, CUDA's allocator knows. On a CPU, torch records every allocation and
    release during the step, and they are summed up over time: exact for tensors, and
    independent of what other phases have left in the process, as the peak of the
    resident set would not be.
    """
    if device.startswith('cuda'):
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        phase(batch)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        phase(batch)
    events = [
        e for e in record.profiler.kineto_results.events() if e.name() == '[memory]'
    ]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def _wait(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize(device)
