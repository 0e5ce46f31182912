"""What the teachers of a comparison reach on the validation data."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.registry import EVALUATOR
from mmengine.runner import Runner

from ...class_maps.class_map import ClassMap
from ...class_maps.counting import class_count
from ...class_maps.samples import shared_metainfo, shared_samples
from ...config import TeacherConfig
from ...data.datasets import dataset_classes
from ...distiller.model import Distiller
from ...io.json_files import read_json, write_own_json
from ...io.random_state import preserved_random_state
from ...taps import frozen_state
from ...teachers.loading import Teacher

# Results of earlier evaluations, in the folder of a comparison.
RESULTS = 'teachers.json'


@dataclass(frozen=True)
class TeacherResult:
    """A teacher of a comparison.

    Args:
        name: Its name in the configs.
        params: Number of its parameters.
        rows: Names of the rows that it teaches.
        metrics: Its metrics on all validation images; empty if not measured.
        reason: Why it was not measured; '' if it was.
    """

    name: str
    params: int
    rows: Sequence[str]
    metrics: Mapping[str, float]
    reason: str = ''


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
    sources: Mapping[str, TeacherSource], cfg: Config, folder: Path
) -> list[TeacherResult]:
    """Measure every teacher on all validation images of the base.

    What was measured before is read from the folder.

    Args:
        sources: The teachers.
        cfg: Config of the base.
        folder: Folder of the comparison.
    """
    names = [source.name for source in sources.values()]
    results = []
    for source in sources.values():
        teacher = Teacher.build(source.name, source.config)
        metrics, reason = _measure(teacher, cfg, source, folder)
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
    teacher: Teacher, cfg: Config, source: TeacherSource, folder: Path
) -> tuple[dict[str, float], str]:
    """Return a teacher's metrics, or why it is not measured."""
    if not teacher.runs:
        return {}, 'its outputs are stored'
    settings = {key: cfg.get(key) for key in ('val_dataloader', 'val_evaluator')}
    text = source.identity + json.dumps(settings, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    known = read_json(folder / RESULTS) or {}
    if isinstance(known.get(key), dict):
        return {name: float(value) for name, value in known[key].items()}, ''
    own, data = class_count(teacher.model), dataset_classes(cfg, 'val')
    if source.classes is None and own is not None and data and own != len(data):
        return {}, f'it has {own} classes, the data {len(data)}'
    print(f'Evaluating teacher {teacher.name} on the validation data', flush=True)
    try:
        teacher.load()
        with preserved_random_state():
            metrics = evaluate(teacher.model, cfg, source.classes)
    except Exception as error:  # a teacher of another kind; the rows can be compared
        return {}, f'{type(error).__name__}: {error}'.partition('\n')[0]
    write_own_json(folder / RESULTS, {**known, key: metrics})
    return metrics, ''


def evaluate(
    model: Any, cfg: Config, classes: ClassMap | None = None
) -> dict[str, float]:
    """Return the metrics of a model on the validation data of a config.

    Args:
        model: The model.
        cfg: A config with `val_dataloader` and `val_evaluator`.
        classes: Its class map: the classes that it shares with the data are measured.
    """
    model.to(get_device())
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its tables
        loader = Runner.build_dataloader(deepcopy(cfg.val_dataloader), seed=0)
        evaluator = _build_evaluator(deepcopy(cfg.val_evaluator))
        meta = getattr(loader.dataset, 'metainfo', None)
        evaluator.dataset_meta = shared_metainfo(meta, classes) if classes else meta
        with frozen_state(model):
            for batch in loader:
                found = model.val_step(batch)
                found = shared_samples(found, classes) if classes else found
                if found:
                    evaluator.process(found, batch)
        metrics = evaluator.evaluate(len(loader.dataset))
    model.cpu()
    # COCO yields -1 where the data has no such objects.
    return {
        name: math.nan if value == -1 else float(value)
        for name, value in metrics.items()
        if isinstance(value, (int, float))
    }


def _build_evaluator(given: Any) -> Evaluator:
    if isinstance(given, Mapping) and 'metrics' in given:
        return EVALUATOR.build(given, default_args=dict(type='Evaluator'))
    return Evaluator(given)
