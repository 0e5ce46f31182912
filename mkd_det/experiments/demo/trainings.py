"""The three trainings of the demo."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...config_files.reading import read_config
from ...data.digits import DigitSettings
from ..runs import TrainingRun
from ..runs.settings import settings_in

CONFIGS = {
    'teacher': 'mkd_det::demo/gfl_r18-w48_digits.py',
    'student': 'mkd_det::demo/gfl_r18-w16_digits.py',
    'mkd': 'mkd_det::demo/gfl_mkd_r18-w48_r18-w16_unlabeled_digits.py',
}
TITLES = {
    'teacher': 'teacher',
    'student': 'student alone',
    'mkd': 'student with M-KD',
}
# Side of an image in pixels, as in the configs.
SIDE = 160


@dataclass(frozen=True)
class DemoSize:
    """Size of the demo.

    Args:
        train: Number of training images.
        val: Number of validation images.
        epochs: Epochs of all three trainings; None for those of the configs.
        batch: Batch size; None for that of the configs.
    """

    train: int = 400
    val: int = 100
    epochs: int | None = None
    batch: int | None = None


FULL = DemoSize()
QUICK = DemoSize(train=12, val=6, epochs=2, batch=4)


def make_trainings(work_dir: Path, size: DemoSize, seed: int) -> list[TrainingRun]:
    """Return the three trainings in their order.

    Args:
        work_dir: Folder of the demo.
        size: Size of the demo.
        seed: Seed of data and trainings.
    """
    # All three take as many steps as the teacher's config says.
    cfg = read_config(CONFIGS['teacher'])
    epochs = size.epochs or cfg.train_cfg.max_epochs
    batch = size.batch or cfg.train_dataloader.batch_size
    steps = epochs * math.ceil(size.train / batch)
    data = json.dumps(asdict(DigitSettings(size.train, size.val, SIDE, seed)))
    runs: dict[str, TrainingRun] = {}
    for name, config in CONFIGS.items():
        taught = name == 'mkd'
        options: dict[str, Any] = {'randomness.seed': seed}
        if size.epochs:
            short = _short_taught(steps, batch) if taught else _short(epochs, batch)
            options.update(short)
        depends_on = {'digits': data}
        if taught:
            teacher = runs['teacher']
            options['model.teachers.t.checkpoint'] = teacher.checkpoint
            options['train_dataloader.dataset.datasets.1.seed'] = seed
            depends_on['teacher'] = teacher.fingerprint
        runs[name] = TrainingRun(
            name=name,
            title=TITLES[name],
            config=config,
            folder=work_dir / name,
            budget=steps if taught else epochs,
            iterations=steps,
            settings=settings_in(read_config(config), work_dir / name),
            options={key: str(value) for key, value in options.items()},
            depends_on=depends_on,
            by_epoch=not taught,
        )
    return list(runs.values())


def _short(epochs: int, batch: int) -> Mapping[str, Any]:
    """Return overrides for a training that is too short to learn anything."""
    return {
        'train_cfg.max_epochs': epochs,
        'train_cfg.val_interval': 1,
        'train_dataloader.batch_size': batch,
        'param_scheduler.0.end': 2,
        'param_scheduler.1.T_max': epochs,
        'param_scheduler.1.end': epochs,
        'default_hooks.logger.interval': 1,
        **_low_threshold('model'),
    }


def _short_taught(steps: int, batch: int) -> Mapping[str, Any]:
    """Return such overrides for the student that is taught, which counts iterations."""
    return {
        'train_cfg.max_iters': steps,
        'train_cfg.val_interval': steps // 2,
        'train_dataloader.batch_size': 2 * batch,
        'train_dataloader.sampler.batch_size': 2 * batch,
        'param_scheduler.0.end': 2,
        'param_scheduler.1.T_max': steps,
        'param_scheduler.1.end': steps,
        'default_hooks.logger.interval': 1,
        'default_hooks.checkpoint.interval': steps // 2,
        # It would refuse this teacher, which has learned nothing.
        'default_hooks.teacher_check': None,
        **_low_threshold('model.student'),
    }


def _low_threshold(model: str) -> Mapping[str, Any]:
    """Return overrides by which there are detections to evaluate."""
    return {f'{model}.test_cfg.score_thr': 0.001, f'{model}.test_cfg.nms_pre': 100}
