"""Detections of the rows of a comparison, beside the ground truth and the teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DATASETS

from ....errors import MkdError
from ....taps import frozen_state
from ....teachers.loading import Teacher
from ...detections import DetectedImage, draw_detections, ground_truth
from ..measuring.students import load_student
from ..preparation import PreparedComparison
from ..summary import RowSummary

# Images, and rows beside the base, that are drawn.
IMAGES, ROWS = 4, 4


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
    indices = images_with_boxes(dataset, IMAGES)
    best = sorted(others, key=lambda row: row.metric.mean, reverse=True)[:ROWS]
    shown = [base, *(row for row in others if row in best)]
    models = _load_students(prepared, shown)
    if not indices or base.name not in models:
        return False
    models = {**_load_teacher(prepared, rows), **models}
    images = [_read_image(dataset, index) for index in indices]
    columns = [{'ground truth': _annotated(dataset, index)} for index in indices]
    for title, model in models.items():
        model.to(get_device())
        with frozen_state(model):
            for index, column in zip(indices, columns, strict=True):
                (sample,) = model.val_step(pseudo_collate([dataset[index]]))
                column[title] = sample.pred_instances.cpu()
        model.cpu()
    drawn = [DetectedImage(image, c) for image, c in zip(images, columns, strict=True)]
    draw_detections(drawn, dataset.metainfo['classes'], path)
    return True


def images_with_boxes(dataset: Any, count: int) -> list[int]:
    """Return indices of images with objects, evenly spaced; none for other data.

    Args:
        dataset: The validation set.
        count: Number of images.
    """
    if not hasattr(dataset, 'get_data_info') or 'classes' not in dataset.metainfo:
        return []
    found = [index for index in range(len(dataset)) if _boxes(dataset, index)]
    count = min(count, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def _boxes(dataset: Any, index: int) -> list[Mapping[str, Any]]:
    """Return the annotated objects of an image, but for those that are ignored."""
    instances = dataset.get_data_info(index).get('instances') or []
    return [one for one in instances if 'bbox' in one and not one.get('ignore_flag')]


def _annotated(dataset: Any, index: int) -> Any:
    boxes = _boxes(dataset, index)
    labels = [one['bbox_label'] for one in boxes]
    return ground_truth([one['bbox'] for one in boxes], labels)


def _read_image(dataset: Any, index: int) -> np.ndarray:
    path = dataset.get_data_info(index)['img_path']
    return mmcv.imread(path, channel_order='rgb')


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
) -> dict[str, Any]:
    """Return the teacher of the best row that has one."""
    taught = [row for row in rows if row.teacher is not None]
    best = max(taught, key=lambda row: row.metric.mean, default=None)
    for source in prepared.teachers.values():
        if best is not None and best.name in source.rows:
            teacher = Teacher.build(source.name, source.config)
            teacher.load()
            return {f'teacher {source.name}': teacher.model}
    return {}
