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
    'mkd': 'mkd_det::demo/gfl_mkd_r18-w48_r18-w16_digits.py',
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
    # All three train as long as the teacher's config says.
    cfg = read_config(CONFIGS['teacher'])
    epochs = size.epochs or cfg.train_cfg.max_epochs
    batch = size.batch or cfg.train_dataloader.batch_size
    data = json.dumps(asdict(DigitSettings(size.train, size.val, SIDE, seed)))
    runs: dict[str, TrainingRun] = {}
    for name, config in CONFIGS.items():
        options: dict[str, Any] = {'randomness.seed': seed}
        if size.epochs:
            options.update(_short_training(epochs, batch, name))
        depends_on = {'digits': data}
        if name == 'mkd':
            teacher = runs['teacher']
            options['model.teachers.t.checkpoint'] = teacher.checkpoint
            depends_on['teacher'] = teacher.fingerprint
        runs[name] = TrainingRun(
            name=name,
            title=TITLES[name],
            config=config,
            folder=work_dir / name,
            budget=epochs,
            iterations=epochs * math.ceil(size.train / batch),
            settings=settings_in(read_config(config), work_dir / name),
            options={key: str(value) for key, value in options.items()},
            depends_on=depends_on,
        )
    return list(runs.values())


def _short_training(epochs: int, batch: int, name: str) -> Mapping[str, Any]:
    """Return overrides for a training that is too short to learn anything."""
    student = 'model.student' if name == 'mkd' else 'model'
    options: dict[str, Any] = {
        'train_cfg.max_epochs': epochs,
        'train_cfg.val_interval': 1,
        'train_dataloader.batch_size': batch,
        'param_scheduler.0.end': 2,
        'param_scheduler.1.T_max': epochs,
        'param_scheduler.1.end': epochs,
        'default_hooks.logger.interval': 1,
        # Low, so that there are detections to evaluate.
        f'{student}.test_cfg.score_thr': 0.001,
        f'{student}.test_cfg.nms_pre': 100,
    }
    if name == 'mkd':
        # It would refuse this teacher, which has learned nothing.
        options['default_hooks.teacher_check'] = None
    return options
