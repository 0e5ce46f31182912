"""The names of the classes that an exported model finds, by label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from ..checkpoints.checkpoint import read_class_names
from ..class_maps.counting import class_count
from ..training.class_names import data_names, trained_labels


def class_list(model: Any, cfg: Config, meta: Mapping[str, Any]) -> list[str]:
    """Return the names of a model's classes, in the order of its labels.

    What the checkpoint notes comes first, then what the annotation files say: mmdet
    numbers classes in their order, whatever `metainfo` says. Then come the names of the
    dataset, which are its class's own where the config gives none.

    Args:
        model: A detector or classifier.
        cfg: Its plain config.
        meta: `meta` of its checkpoint.

    Returns:
        The names; empty where they are not known, or are not as many as the model has
        classes.
    """
    names = (
        trained_labels(meta, cfg).names
        or read_class_names(meta)
        or data_names(cfg)
        or _test_names(cfg)
    )
    return list(names) if class_count(model) in (None, len(names)) else []


def _test_names(cfg: Config) -> tuple[str, ...]:
    """Return the names that the test data is given, of a config without a training."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    metainfo = dataset.get('metainfo') or cfg.get('metainfo') or {}
    return tuple(metainfo.get('classes') or ())
