"""Write the plain student: weights and config that need no mkd_det."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from ..checkpoints.checkpoint import load_checkpoint_strict, read_checkpoint, read_meta
from ..contrib.row_conv import to_square
from ..distiller.state import without_distill_state
from ..errors import ConfigError
from ..io.atomic import write_atomically, write_own
from ..io.paths import check_output_file
from ..registry import type_name
from .class_names import RUN_RECORD
from .runtime import build_model
from .student_config import student_config

# Parts of a checkpoint's `meta` that are kept. `init_detector` reads the classes from
# `dataset_meta`.
_META = ('epoch', 'iter', 'seed', 'dataset_meta', 'mmengine_version', RUN_RECORD)


def save_student(
    path: Path,
    weights: Mapping[str, Any],
    meta: Mapping[str, Any],
    config: str | None = None,
) -> None:
    """Write the weights of a plain student, completely or not at all.

    Args:
        path: The .pth file.
        weights: State dict of the student, or of a distiller.
        meta: `meta` of its checkpoint; some of it is kept.
        config: Text of its config.

    Raises:
        CheckpointSaveError: The file could not be written.
    """
    kept = {key: meta[key] for key in _META if key in meta}
    if config is not None:
        kept['cfg'] = config
    buffer = io.BytesIO()
    plain = without_distill_state(weights)
    torch.save(dict(meta=kept, state_dict=plain), buffer)
    write_atomically(path, buffer.getbuffer())


def export(
    cfg: Config, checkpoint: str, weights: Path, config: Path, square: bool = False
) -> None:
    """Write the plain student's weights and config, and check them.

    Args:
        cfg: The distill config. Of any other config, its model is the student.
        checkpoint: A checkpoint that was trained with it.
        weights: The .pth file to write.
        config: The .py file to write.
        square: Whether 1xK filters of a `RowModel` become KxK ones.

    Raises:
        MkdError: The checkpoint does not fit the student completely (nothing is
            written then), or a file could not be written.
    """
    sources = (checkpoint, *([cfg.filename] if cfg.filename else []))
    for path in (weights, config):
        check_output_file(path, 'OUT', *sources)
    plain, model, content = load_student(cfg, checkpoint, square)
    text = plain.pretty_text
    # The weights first: a config without weights is of no use.
    save_student(weights, model.state_dict(), read_meta(content), text)
    write_own(config, text.encode())
    verify_export(config, weights)


def load_student(
    cfg: Config, checkpoint: str, square: bool = False
) -> tuple[Config, Any, dict[str, Any]]:
    """Return the student of a config with the weights of a checkpoint.

    Args:
        cfg: The distill config. Of any other config, its model is the student.
        checkpoint: A checkpoint that was trained with it.
        square: Whether 1xK filters of a `RowModel` become KxK ones.

    Returns:
        Its plain config, the model, and the content of the checkpoint.

    Raises:
        MkdError: The checkpoint does not fit the student completely.
    """
    plain = student_config(cfg)
    model = build_model(plain)
    content = load_checkpoint_strict(model, checkpoint, 'the student of the config')
    if square:
        plain = square_filter_config(plain)
        wide = build_model(plain)
        wide.load_state_dict(to_square(model.state_dict(), wide), strict=True)
        model = wide
    return plain, model, content


def square_filter_config(cfg: Config) -> Config:
    """Return the config of the model that a `RowModel` is made from.

    Args:
        cfg: A plain config.

    Raises:
        ConfigError: Its model is no `RowModel`.
    """
    if type_name(cfg.model.type) != 'RowModel':
        raise ConfigError(
            '--square is for models of 1xK filters',
            expected="model=dict(type='RowModel', model=...)",
            actual=cfg.model.type,
        )
    cfg = Config(cfg.to_dict())
    preprocessor = cfg.model.get('data_preprocessor')
    cfg.model = cfg.model.model
    if preprocessor is not None:
        cfg.model.setdefault('data_preprocessor', preprocessor)
    return student_config(cfg)  # may need no import of mkd_det any more


def verify_export(config: Path, weights: Path) -> None:
    """Load the written weights strictly with the written config alone.

    Args:
        config: The .py file.
        weights: The .pth file.

    Raises:
        MkdError: They do not fit together.
    """
    model = MODELS.build(Config.fromfile(config).model)
    content = read_checkpoint(str(weights))
    model.load_state_dict(content['state_dict'], strict=True)
