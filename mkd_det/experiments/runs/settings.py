"""Settings of a config that determine the result of its training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

# Settings that do not change the result.
_WITHOUT_EFFECT = (
    'log_level',
    'log_processor',
    'visualizer',
    'vis_backends',
    'default_hooks.logger',
    'default_hooks.visualization',
    'default_hooks.checkpoint.interval',
    'default_hooks.checkpoint.max_keep_ckpts',
    'val_dataloader.num_workers',
    'val_dataloader.persistent_workers',
    'test_dataloader',
    'test_evaluator',
    'test_cfg',
)


def settings_in(cfg: Config, folder: Path) -> dict[str, str]:
    """Return all settings of a config that determine the result, as json by name.

    The place of the folder does not matter. Initial weights are known by the content
    of their files, not by their paths.

    Args:
        cfg: Config of a training.
        folder: Folder of the experiment, or of the training.
    """
    text = json.dumps(cfg.to_dict(), default=str)
    initial_weights = {
        name: checkpoint_id(json.loads(path))
        for name, path in flatten(json.loads(text))
        if name == 'load_from' or name.endswith('init_cfg.checkpoint')
        if path != 'null' and Path(json.loads(path)).is_file()
    }
    movable = json.loads(text.replace(str(folder), 'WORK_DIR'))
    ignored = tuple(f'{name}.' for name in _WITHOUT_EFFECT)
    kept = {k: v for k, v in flatten(movable) if not f'{k}.'.startswith(ignored)}
    return {**kept, **initial_weights}


def flatten(value: Any, where: str = '') -> Iterator[tuple[str, str]]:
    """Yield dotted names of all values in nested dicts, and the values as json."""
    if not isinstance(value, Mapping) or not value:
        yield where, json.dumps(value)
        return
    for key, inner in value.items():
        yield from flatten(inner, f'{where}.{key}' if where else key)


def checkpoint_id(checkpoint: str) -> str:
    """Return a hash of a checkpoint file's content, or its address on the web."""
    if '://' in checkpoint:
        return checkpoint
    return hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()[:16]
