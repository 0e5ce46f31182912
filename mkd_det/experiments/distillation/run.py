"""Writes the configs of a distillation, trains the teacher if need be, calibrates."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...checkpoints.checkpoint import read_checkpoint, read_meta
from ...config_files.reading import load_config
from ...errors import CheckpointError, ConfigError, ExperimentError
from ...io.atomic import write_own
from ...training.resume import has_begun
from ..calibration import Settings, calibrate
from ..calibration.config_file import write_calibrated
from .prepare import PreparedDistillation
from .settings import (
    CALIBRATED,
    OPTIONS_CONFIG,
    TEACHER_CONFIG,
    DistillSettings,
    note_sources,
)
from .shipping import shipped_files

# Iterations that are trained to find the weights of the terms.
CALIBRATION_ITERS = 200
# Files in the folder of the configs that name the one to train: while a launch begins,
# and from then on.
_HANDED_OVER, _TRAINED = '.handed_over', '.trained_config'


def write_configs(
    settings: DistillSettings,
    prepared: PreparedDistillation,
    calibrated: bool = True,
) -> Path:
    """Write the configs, after all that they need is there.

    Args:
        settings: What the user asks for.
        prepared: What `prepare` returned.
        calibrated: Whether to find the weights of the terms, by a short training.

    Returns:
        The config to train.

    Raises:
        MkdError: The teacher cannot be trained, or the terms cannot be calibrated.
    """
    config = _written(settings, prepared, calibrated)
    write_own(settings.folder / _TRAINED, config.name.encode())
    return config


def _written(
    settings: DistillSettings, prepared: PreparedDistillation, calibrated: bool
) -> Path:
    prepared.write(settings.folder)
    note_sources(settings)
    config = settings.config
    if settings.checkpoint is None:
        train_teacher(settings, settings.folder / TEACHER_CONFIG)
    if not calibrated:
        return config
    cfg = load_config(str(config), settings.options)
    shares = any('share' in term for term in cfg.model.terms.values())
    if not shares or cfg.model.get('balance') is not None:  # it keeps to them itself
        return config
    out = settings.folder / CALIBRATED
    found = calibrate(cfg, {}, Settings(iters=CALIBRATION_ITERS))
    write_calibrated(out, str(config), cfg, found)
    return out


def hand_over(settings: DistillSettings, config: Path | None) -> None:
    """Tell the other processes of a launch which config they train.

    Args:
        settings: What the user asks for.
        config: The config; None to take back what was said.
    """
    note = settings.folder / _HANDED_OVER
    if config is None:
        with suppress(FileNotFoundError, NotADirectoryError):
            note.unlink()
    else:
        write_own(note, config.name.encode())


def wait_for_first(settings: DistillSettings) -> Path:
    """Return the config to train, once the first process of a launch has written it.

    There is no limit: to train a teacher first takes its time, and where the first
    process fails, its launcher ends the others.

    Args:
        settings: What the user asks for.
    """
    note = settings.folder / _HANDED_OVER
    while not note.is_file():
        time.sleep(0.5)
    return settings.folder / Path(note.read_text(encoding='utf-8')).name


def written_config(settings: DistillSettings) -> Path | None:
    """Return the config of a distillation that has begun; None if none has.

    Args:
        settings: What the user asks for.
    """
    if not has_begun(str(settings.run_dir)):
        return None
    note = settings.folder / _TRAINED
    noted = [Path(note.read_text(encoding='utf-8')).name] if note.is_file() else []
    names = (*noted, CALIBRATED, OPTIONS_CONFIG, 'distill.py')
    files = (settings.folder / name for name in names)
    return next((file for file in files if file.is_file()), None)


def is_finished(config: str, folder: Path, options: Any = None) -> bool:
    """Return whether a training is at its end, and its student is written.

    Args:
        config: The config that is trained.
        folder: Its work dir.
        options: Overrides of the config, by dotted key.
    """
    if shipped_files(folder) is None or not (folder / 'last_checkpoint').is_file():
        return False
    note = (folder / 'last_checkpoint').read_text(encoding='utf-8').strip()
    path = folder / Path(note).name
    loop = load_config(config, options).get('train_cfg') or {}
    try:
        meta = read_meta(read_checkpoint(str(path)))
    except CheckpointError:
        return False  # resuming says what is wrong with it
    return any(
        isinstance(last := loop.get(f'max_{unit}s'), int) and meta.get(unit, 0) >= last
        for unit in ('epoch', 'iter')
    )


def train_teacher(settings: DistillSettings, config: Path) -> None:
    """Train the teacher in a process of its own; nothing is done if it is trained.

    Args:
        settings: What the user asks for.
        config: Config of the teacher.

    Raises:
        ExperimentError: Its training has failed.
    """
    folder = settings.teacher_dir
    link = folder / 'last.pth'
    if link.is_file():
        return
    command = [sys.executable, '-m', 'mkd_det', 'train', str(config)]
    command += ['--work-dir', str(folder)]
    command += ['--resume'] if has_begun(str(folder)) else []
    code = subprocess.run(command, check=False).returncode
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise ExperimentError(
            'the training of the teacher has failed',
            actual=f'exit code {code}',
            fix=' '.join(command),
        )
    name = (folder / 'last_checkpoint').read_text().strip()
    link.symlink_to(Path(name).name)


def check_checkpoint(settings: DistillSettings, train: bool) -> None:
    """Raise unless the teacher has weights, or is to be trained first.

    Args:
        settings: What the user asks for.
        train: Whether the teacher is to be trained first.

    Raises:
        ConfigError: Neither, or both.
    """
    if settings.checkpoint is None and not train:
        raise ConfigError(
            '--teacher: the weights of the teacher are missing',
            expected='--teacher CONFIG CHECKPOINT',
            actual=f'--teacher {settings.teacher}',
            fix=f'--teacher {settings.teacher} big.pth; or --train-teacher, to train'
            ' the teacher first',
        )
    if settings.checkpoint is not None and train:
        raise ConfigError(
            '--train-teacher: the teacher has weights already',
            actual=settings.checkpoint,
            fix='one of both',
        )
