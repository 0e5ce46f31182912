"""The pairs of GFL detectors on three data sets, on which methods are compared."""

from __future__ import annotations

from pathlib import Path

from bccd_val import use_val, write_val
from mmengine.config import Config

from mkd_det.config_files.reading import load_config

DATA = ('bccd', 'cards', 'pcb')


def prepare(work_dir: Path, data: str) -> None:
    """Write what the configs of a data set need, before they are made."""
    if data == 'bccd':
        write_val(work_dir)


def alone(work_dir: Path, data: str) -> Config:
    """Return the config of the student alone, which validates on val images."""
    return _on_val(load_config(f'mkd_det::{data}/gfl_r18-w16_{data}.py'), work_dir)


def taught(work_dir: Path, data: str, checkpoint: Path) -> Config:
    """Return the config of M-KD, which validates on val images.

    Args:
        work_dir: Has the teacher's cache, and what `prepare` has written.
        data: One of `DATA`.
        checkpoint: The teacher's.
    """
    cfg = load_config(f'mkd_det::{data}/gfl_mkd_r18-w64_r18-w16_{data}.py')
    cfg.model.teachers.t.checkpoint = str(checkpoint.absolute())
    cfg.model.teachers.t.cache = str((work_dir / 'cache').absolute())
    return _on_val(cfg, work_dir)


def teacher_file(weights: Path, data: str, seed: int = 0) -> Path:
    """Return the checkpoint of a teacher: gfl_r18-w64_bccd.pth, of seed 1 ..._1.pth."""
    return weights / f'gfl_r18-w64_{data}{f"_{seed}" if seed else ""}.pth'


def _on_val(cfg: Config, work_dir: Path) -> Config:
    if 'bccd' in cfg.filename:
        use_val(cfg, work_dir)
    return cfg
