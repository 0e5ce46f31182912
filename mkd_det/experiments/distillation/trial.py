"""Tries the configs of a distillation before they are written where they belong."""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device

from ...config_files.reading import load_config
from ...data.datasets import absent_data
from ...errors import MkdError
from ...io.quiet import suppress_info_logs
from ...preflight.checks import check_before_start
from ...registry import type_name
from ...training.class_names import with_class_names
from ...training.runtime import build_model, prepare_config
from ..doctor.run import own_instances
from ..doctor.start_metric import examine_start, warn_of_better_student
from ..memory import (
    batch_of,
    check_room,
    describe_batch,
    estimate_memory,
    fitting_batch,
    free_bytes,
    wanted_batch,
)
from .plain_configs import Batches
from .plan_rows import plan_rows
from .settings import TEACHER_CONFIG, DistillSettings

BATCH = 'train_dataloader.batch_size'


@dataclass(frozen=True)
class Found:
    """What a trial has shown.

    Args:
        notes: What was decided, a sentence each.
        warnings: What a person should know, a sentence each.
        rows: What is compared with what, see `plan_rows`.
    """

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    rows: list[tuple[str, str]] = field(default_factory=list)


def wanted_batches(settings: DistillSettings, bases: tuple[Config, Config]) -> Batches:
    """Return the batch sizes to have; None where the configs decide.

    Args:
        settings: What the user asks for.
        bases: Configs of student and teacher.
    """
    if settings.data is None:
        return None, None
    chosen = None if BATCH in settings.options else wanted_batch(bases[0])
    return chosen, wanted_batch(bases[1], ranks=1)  # trained first, in one process


def try_configs(
    settings: DistillSettings,
    bases: tuple[Config, Config],
    wanted: Batches,
    folder: Path,
) -> tuple[Batches, Found]:
    """Check written configs as a training would, and find batch sizes that fit.

    Args:
        settings: What the user asks for.
        bases: Configs of student and teacher, that the written ones inherit from.
        wanted: The batch sizes to have.
        folder: Folder of the written configs.

    Returns:
        Batch sizes, and what was found.

    Raises:
        MkdError: The training could not start, or has no room.
    """
    found = Found()
    cfg = load_config(str(folder / 'distill.py'), settings.options)
    cfg.work_dir, cfg.launcher = str(settings.run_dir.absolute()), 'none'
    cfg = with_class_names(cfg)
    # Instances of mmengine that this makes must not meet those of the training.
    with suppress_info_logs(), redirect_stdout(StringIO()), own_instances():
        _check(cfg, settings, found, folder)
        student = _fit(cfg, bases[0], wanted[0], 'batch size', found)
        teacher = wanted[1]
        if settings.checkpoint is None:
            alone = load_config(str(folder / TEACHER_CONFIG))
            if settings.trains or not absent_data(alone):
                alone.work_dir = str(settings.teacher_dir.absolute())
                alone.launcher = 'none'
                check_before_start(alone)
            name = 'batch size of the teacher'
            teacher = _fit(alone, bases[1], teacher, name, found)
    return (student, teacher), found


def _check(cfg: Config, settings: DistillSettings, found: Found, folder: Path) -> None:
    """Check as a training would; without it, data may be on another machine."""
    absent = [] if settings.trains else absent_data(cfg)
    elsewhere = [] if settings.trains else _leave_out(cfg)
    if absent or elsewhere:
        what = ', '.join([*absent, *elsewhere])
        found.notes.append(f'not checked, since it is not here: {what}')
    has_weights = settings.checkpoint is not None
    model: Any
    if absent:
        model = build_model(cfg)
        if has_weights:
            model.teachers.load()
    elif cfg.get('load_from') is not None and has_weights:
        case = examine_start(cfg, folder)
        try:
            found.warnings.extend(warn_of_better_student(case))
        except MkdError as error:
            text = f'student and teacher are not compared: {error.message}'
            found.warnings.append(text)
        model = case.model
    else:
        model = check_before_start(prepare_config(cfg), has_weights)
    found.rows.extend(plan_rows(model))


def _leave_out(cfg: Config) -> list[str]:
    """Take out of a config what may be on the machine that trains; return its names."""
    found = []
    start = cfg.get('load_from')
    if start is not None and not os.path.isfile(start):
        found.append(f'load_from {start}')
        cfg.load_from = None
    wrapper: Any = cfg.get('optim_wrapper') or {}
    if type_name(wrapper.get('type')) == 'AmpOptimWrapper' and get_device() == 'cpu':
        found.append('a GPU for mixed precision')
        wrapper.type = 'OptimWrapper'
        wrapper.pop('loss_scale', None)
        wrapper.pop('dtype', None)
    return found


def _fit(
    cfg: Config, base: Config, wanted: int | None, name: str, found: Found
) -> int | None:
    """Return the batch size of a config; None where that of the config stays."""
    memory, why_not = estimate_memory(cfg)
    if memory is None:
        found.notes.append(f'memory of a step: not estimated ({why_not})')
        return wanted and batch_of(base)
    if wanted is None:
        check_room(memory, batch_of(cfg), free_bytes())
        return None
    batch = fitting_batch(memory, wanted, free_bytes())
    found.notes.append(f'{name} {describe_batch(memory, batch, batch_of(base))}')
    return batch
