"""Detections of the rows of a comparison, beside the ground truth and the teachers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS

from ....class_maps.class_map import ClassMap
from ....errors import MkdError
from ....teachers.loading import Teacher
from ...detections import IMAGES, draw_models, images_with_boxes
from ..measuring.students import load_student
from ..preparation import PreparedComparison
from ..summary import RowSummary

# Rows beside the base that are drawn.
ROWS = 4


def draw_comparison(
    prepared: PreparedComparison, rows: Sequence[RowSummary], path: Path
) -> bool:
    """Draw ground truth, the best teacher, the base and the best rows.

    Args:
        prepared: The comparison.
        rows: Summaries of its rows, the base first.
        path: The PNG file.

    Returns:
        Whether something was drawn: the data has boxes, and the base a checkpoint.
    """
    base, *others = rows
    cfg = prepared.base.cfg
    dataset = DATASETS.build(cfg.val_dataloader.dataset.copy())
    best = sorted(others, key=lambda row: row.metric.mean, reverse=True)[:ROWS]
    shown = [base, *(row for row in others if row in best)]
    models = _load_students(prepared, shown)
    if base.name not in models or not images_with_boxes(dataset, IMAGES):
        return False
    teacher, class_maps = _load_teacher(prepared, rows)
    return draw_models({**teacher, **models}, dataset, path, class_maps)


def _load_students(
    prepared: PreparedComparison, rows: Sequence[RowSummary]
) -> dict[str, Any]:
    """Return the students of the first seed of some rows, as far as they are there."""
    models = {}
    for row in prepared.rows:
        summary = next((one for one in rows if one.name == row.name), None)
        if summary is None:
            continue
        path = prepared.trainings[row.name, summary.seeds[0]].checkpoint
        with suppress(MkdError):  # deleted or damaged since; the others can be drawn
            models[row.name] = load_student(row.cfg, path, row.name)
    return models


def _load_teacher(
    prepared: PreparedComparison, rows: Sequence[RowSummary]
) -> tuple[dict[str, Any], dict[str, ClassMap | None]]:
    """Return the teacher of the best row that has one, and its class map."""
    taught = [row for row in rows if row.teacher is not None]
    best = max(taught, key=lambda row: row.metric.mean, default=None)
    for source in prepared.teachers.values():
        if best is not None and best.name in source.rows:
            teacher = Teacher.build(source.name, source.config)
            teacher.load()
            title = f'teacher {source.name}'
            return {title: teacher.model}, {title: source.classes}
    return {}, {}
