"""The names of the classes that teachers and students were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..checkpoints.checkpoint import read_checkpoint, read_class_names, read_meta
from ..data.datasets import dataset_classes
from ..data.labels import Labels, agreed_names, read_labels
from ..errors import MkdError
from ..teachers.loading import load_teacher_cfg

# Key of `meta` in a checkpoint where `RunRecordHook` notes facts of its training.
RUN_RECORD = 'run'


def with_class_names(cfg: Config) -> Config:
    """Return a distill config with the names of classes that its class maps need.

    Args:
        cfg: A config of a training, which is not changed.

    Returns:
        The config with `classes` of the model and of those teachers that have a
        `class_map`. What is given stays, and what is not known is left out; without
        class maps, the config as it is given.
    """
    given = (cfg.get('model') or {}).get('teachers')
    given = given if isinstance(given, Mapping) else {}
    mapped = {
        name: teacher
        for name, teacher in given.items()
        if isinstance(teacher, Mapping) and teacher.get('class_map') is not None
    }
    if not mapped:
        return cfg
    cfg = deepcopy(cfg)
    if not cfg.model.get('classes'):
        cfg.model.classes = list(data_names(cfg))
    for name, teacher in mapped.items():
        source = given.get(teacher.get('prune_of'), {})
        if not teacher.get('classes'):
            cfg.model.teachers[name].classes = list(
                teacher_names({**source, **teacher})
            )
    return cfg


def data_names(cfg: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes by label of the training data.

    Those that its files say, else those of `metainfo`; empty where neither is known.

    Args:
        cfg: A config of a training.
    """
    try:
        return agreed_names(read_labels(cfg, 'train')) or dataset_classes(cfg) or ()
    except MkdError:  # what checks of the data say in their own words
        return ()


def teacher_names(teacher: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a teacher's classes, in the order of its labels.

    A file that is not there yet, or is not on this machine, is not needed: the data of
    the teacher's config names the classes, too.

    Args:
        teacher: The config of the teacher.

    Returns:
        The names; empty where they are not known.
    """
    meta: Mapping[str, Any] = {}
    path = None if teacher.get('stored') else teacher.get('checkpoint')
    try:
        _, source = load_teacher_cfg(teacher.get('cfg') or {})
        if path is not None and Path(path).is_file():
            trusted = bool(teacher.get('trust_checkpoint'))
            meta = read_meta(read_checkpoint(str(path), trusted))
    except (MkdError, TypeError):  # loading the teacher says it in its own words
        return ()
    known = trained_labels(meta, source).names or read_class_names(meta)
    if known or source is None:
        return tuple(known or ())
    return data_names(source)


def trained_labels(meta: Mapping[str, Any], source: Mapping[str, Any] | None) -> Labels:
    """Return what the labels mean that a model was trained on.

    What its checkpoint notes of its data, else what the annotation files of its config
    say.

    Args:
        meta: `meta` of the checkpoint.
        source: The whole config of the model; None for a model alone.
    """
    noted = recorded_labels(meta)
    if noted:
        return Labels('its checkpoint', noted)
    if source is None:
        return Labels('its config', (), 'its `cfg` is a model alone, without data')
    try:
        found = read_labels(source, 'train')
    except MkdError as error:
        return Labels('its config', (), error.message)
    names = agreed_names(found)
    if not names:
        reasons = [labels.unknown for labels in found if labels.unknown]
        return Labels('its config', (), (reasons or ['its config names no data'])[0])
    classes = read_class_names(meta)
    if classes is not None and set(classes) != set(names):
        return Labels('its config', (), 'it was trained on other data than its config')
    return Labels(found[0].source + ' of its config', names)


def recorded_labels(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classes of the labels that `RunRecordHook` noted in a checkpoint.

    Args:
        meta: `meta` of the checkpoint.
    """
    record = meta.get(RUN_RECORD)
    names = record.get('label_names') if isinstance(record, Mapping) else None
    if not isinstance(names, (list, tuple)):
        return ()
    return tuple(names) if all(isinstance(name, str) for name in names) else ()
