"""Time, memory and disk of the whole training: estimates."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from ....preflight.disk_use import checkpoint_size, count_checkpoints
from ..examination import Examination
from ..finding import OK, WRONG, Finding
from ..timing import free_memory, measured_times, step_seconds

POSITION = 140
SLOW = True


def check(case: Examination) -> Iterator[Finding]:
    """Estimate what the training takes, and compare it with what there is."""
    yield from _memory(case)
    yield from _disk(case)
    seconds, steps = step_seconds(case), case.iterations
    hours = seconds * steps / 3600
    time = f'{hours:.1f} hours' if hours >= 1 else f'{60 * hours:.0f} minutes'
    yield Finding(
        'resources',
        OK,
        f'about {time} for {steps} steps of {seconds:.2f} s on {case.device}, without'
        ' validation and the loading of images',
    )


def _memory(case: Examination) -> Iterator[Finding]:
    needed, free = measured_times(case).bytes, free_memory(case.device)
    text = f'a step needs about {gigabytes(needed)} of memory'
    if free is None:
        yield Finding('resources', OK, text)
    elif needed > free:
        batch = int(case.cfg.train_dataloader.get('batch_size') or 1)
        smaller = max(int(batch * free / needed * 0.8), 1)
        yield Finding(
            'resources',
            WRONG,
            f'{text} on {case.device}, {gigabytes(free)} are free',
            f'train_dataloader.batch_size={smaller}, with'
            f' optim_wrapper.accumulative_counts={-(-batch // smaller)}',
        )
    else:
        yield Finding('resources', OK, f'{text}; {gigabytes(free)} are free')


def _disk(case: Examination) -> Iterator[Finding]:
    # The last ones, and the best one.
    count = count_checkpoints(case.cfg) + 1
    needed, free = count * checkpoint_size(case.cfg, case.model), free_disk(case)
    text = f'{count} checkpoints take about {gigabytes(needed)}'
    if needed > free:
        yield Finding(
            'resources',
            WRONG,
            f'{text} in {case.cfg.work_dir}, {gigabytes(free)} are free',
            'default_hooks.checkpoint.max_keep_ckpts=2; or --work-dir on another disk',
        )
    else:
        yield Finding('resources', OK, f'{text}; {gigabytes(free)} are free')


def free_disk(case: Examination) -> int:
    """Return the free bytes where the training writes."""
    folder = Path(case.cfg.work_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def gigabytes(count: float) -> str:
    """Return bytes in words."""
    return f'{count / 1e9:.2f} GB' if count >= 1e8 else f'{count / 1e6:.0f} MB'
