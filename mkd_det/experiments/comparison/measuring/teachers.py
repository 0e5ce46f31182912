"""What the teachers of a comparison reach on a split of the data."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ....class_maps.class_map import ClassMap
from ....class_maps.counting import class_count
from ....config import TeacherConfig
from ....data.datasets import dataset_classes
from ....distiller.model import Distiller
from ....io.json_files import read_json, write_own_json
from ....teachers.loading import Teacher
from .evaluation import evaluate

# Results of earlier evaluations, in the folder of a comparison.
RESULTS = 'teachers.json'


@dataclass(frozen=True)
class TeacherResult:
    """A teacher of a comparison.

    Args:
        name: Its name in the configs.
        params: Number of its parameters.
        rows: Names of the rows that it teaches.
        metrics: Its metrics on all images of the split that is reported; empty if
            not measured.
        reason: Why it was not measured; '' if it was.
        validation: Its metrics on the validation images, where test is reported.
    """

    name: str
    params: int
    rows: Sequence[str]
    metrics: Mapping[str, float]
    reason: str = ''
    validation: Mapping[str, float] = field(default_factory=dict)


@dataclass
class TeacherSource:
    """A teacher that rows of a comparison have in common.

    Args:
        name: Its name in the config of the first of these rows.
        config: Its config there.
        identity: What identifies it: its weights and its model.
        rows: Names of these rows.
        classes: Its class map, if it is of other classes.
    """

    name: str
    config: TeacherConfig
    identity: str
    rows: list[str] = field(default_factory=list)
    classes: ClassMap | None = None


def add_teachers(
    sources: dict[str, TeacherSource],
    row: str,
    model: Any,
    identities: Mapping[str, str],
) -> None:
    """Add the teachers that the terms of a row read.

    Args:
        sources: The teachers so far, by what identifies them; changed.
        row: Name of the row.
        model: The model of the row.
        identities: What identifies each teacher of the model, by 'teacher <name>'.
    """
    if not isinstance(model, Distiller):
        return
    for name, teacher in model.teachers.items():
        if name in model.plan.taps and not teacher.config.prune:
            identity = identities[f'teacher {name}']
            classes = model.plan.class_maps.get(name)
            if classes is not None and classes.changes_nothing:
                classes = None
            identity += f', {classes}' if classes else ''
            new = TeacherSource(name, teacher.config, identity, [], classes)
            sources.setdefault(identity, new).rows.append(row)


def measure_teachers(
    sources: Mapping[str, TeacherSource],
    cfg: Config,
    folder: Path,
    split: str = 'val',
) -> list[TeacherResult]:
    """Measure every teacher on all images of a split of the base.

    What was measured before is read from the folder.

    Args:
        sources: The teachers.
        cfg: Config of the base.
        folder: Folder of the comparison.
        split: 'val' or 'test'.
    """
    names = [source.name for source in sources.values()]
    results = []
    for source in sources.values():
        teacher = Teacher.build(source.name, source.config)
        metrics, reason = _measure(teacher, cfg, source, folder, split)
        name = source.name
        if names.count(name) > 1:  # two rows call different models by one name
            name = f'{name} of {", ".join(source.rows)}'
        params = sum(parameter.numel() for parameter in teacher.model.parameters())
        results.append(TeacherResult(name, params, source.rows, metrics, reason))
    return results


def best_teacher(teachers: Sequence[TeacherResult], row: str, key: str) -> float | None:
    """Return the metric of a row's teacher, the best of several; None if unknown.

    Args:
        teachers: The teachers of the comparison.
        row: Name of the row.
        key: Key of the metric.
    """
    found = [
        value
        for teacher in teachers
        if row in teacher.rows
        if not math.isnan(value := teacher.metrics.get(key, math.nan))
    ]
    return max(found, default=None)


def _measure(
    teacher: Teacher,
    cfg: Config,
    source: TeacherSource,
    folder: Path,
    split: str,
) -> tuple[dict[str, float], str]:
    """Return a teacher's metrics, or why it is not measured."""
    if not teacher.runs:
        return {}, 'its outputs are stored'
    settings = {
        name: cfg.get(name) for name in (f'{split}_dataloader', f'{split}_evaluator')
    }
    text = source.identity + json.dumps(settings, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    known = read_json(folder / RESULTS) or {}
    if isinstance(known.get(key), dict):
        return {name: float(value) for name, value in known[key].items()}, ''
    own, data = class_count(teacher.model), dataset_classes(cfg, split)
    if source.classes is None and own is not None and data and own != len(data):
        return {}, f'it has {own} classes, the data {len(data)}'
    print(f'Evaluating teacher {teacher.name} on the {split} data', flush=True)
    try:
        teacher.load()
        found = evaluate(teacher.model, cfg, split, source.classes)
    except Exception as error:  # a teacher of another kind; the rows can be compared
        return {}, f'{type(error).__name__}: {error}'.partition('\n')[0]
    metrics = dict(found.metrics)
    write_own_json(folder / RESULTS, {**known, key: metrics})
    return metrics, ''
