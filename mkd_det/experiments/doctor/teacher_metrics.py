"""What teachers find in validation images, measured once for all checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torchvision.ops import box_iou

from ...class_maps.class_map import ClassMap
from ...hooks.teacher_check_hook import TeacherCheckHook
from ...hooks.teacher_evaluation import evaluate_teacher, sample_images
from ...training.runtime import hook_type
from .examination import Examination

# Detections with a lower score, and those that overlap less, say nothing on classes.
MIN_SCORE, MIN_IOU = 0.3, 0.5


@dataclass(frozen=True)
class MeasuredTeacher:
    """What a teacher has found.

    Args:
        metrics: Of the evaluator, by name.
        images: Number of images.
        confusion: How often an object of a class of the data (row) is found as a class
            (column); None where there are no boxes.
        classes: Names of these classes.
    """

    metrics: dict[str, Any]
    images: int
    confusion: np.ndarray | None
    classes: tuple[str, ...]


def configured_hook(cfg: Config) -> TeacherCheckHook:
    """Return the teacher check of a config, with its metric and its threshold.

    Args:
        cfg: The config, with the hooks of a training.
    """
    given = next(_checks(cfg), {})
    return TeacherCheckHook(
        **{k: v for k, v in given.items() if k not in ('type', 'priority')}
    )


def is_checked(cfg: Config) -> bool:
    """Return whether a training checks its teachers before it starts.

    Args:
        cfg: The config, with the hooks of a training.
    """
    return any(True for _ in _checks(cfg))


def _checks(cfg: Config) -> Iterator[Mapping[str, Any]]:
    hooks = [*(cfg.get('default_hooks') or {}).values()]
    for hook in [*hooks, *(cfg.get('custom_hooks') or [])]:
        if hook_type(hook) == 'TeacherCheckHook':
            yield hook


def measured_teachers(case: Examination) -> dict[str, MeasuredTeacher]:
    """Return what each teacher finds, if it runs and its classes are those of the data.

    Args:
        case: What is examined.
    """
    known = case.__dict__.setdefault('_measured_teachers', {})
    if not known:
        for name, teacher in case.model.teachers.items():
            if teacher.runs and _is_comparable(case, name):
                known[name] = measure(case, name, case.settings.images)
    return known


def _is_comparable(case: Examination, name: str) -> bool:
    """Return whether a teacher has the classes of the data, or a class map."""
    from ...class_maps.counting import class_count

    model = case.model
    if name in model.plan.class_maps:
        return True
    own, ours = class_count(model.teachers[name].model), class_count(model.student)
    return own is None or ours is None or own == ours


def measure(case: Examination, name: str, images: int) -> MeasuredTeacher:
    """Measure one teacher.

    Args:
        case: What is examined.
        name: The teacher.
        images: Number of images, evenly spaced.
    """
    runner, model = case.runner, case.model
    indices = sample_images(runner, images)
    classes = model.plan.class_maps.get(name)
    dataset = runner.val_dataloader.dataset
    table = _Confusion(dataset, indices, classes)
    metrics = evaluate_teacher(
        runner, model.teachers[name], indices, classes, table.add
    )
    return MeasuredTeacher(metrics, len(indices), table.counts, table.names)


class _Confusion:
    """Counts as which class the objects of each class are found.

    Args:
        dataset: The validation data.
        indices: The images that are evaluated.
        classes: The teacher's class map, if it has one.
    """

    def __init__(
        self, dataset: Any, indices: Sequence[int], classes: ClassMap | None
    ) -> None:
        meta = getattr(dataset, 'metainfo', None)
        names = tuple(meta.get('classes') or ()) if isinstance(meta, dict) else ()
        self.labels = dict(zip(range(len(names)), range(len(names))))
        if classes is not None:
            self.labels = classes.labels_of('student')
            names = tuple(classes.ours.name(index) for index in classes.shared)
        self.names = names
        self.objects: dict[Any, list[dict]] = {}
        for index in indices if names and hasattr(dataset, 'get_data_info') else ():
            info = dataset.get_data_info(index)
            self.objects[info.get('img_id')] = info.get('instances') or []
        self.counts: np.ndarray | None = None

    def add(self, samples: Sequence[Any]) -> None:
        """Count the objects of some images.

        Args:
            samples: Their samples, with predictions in pixels of the files.
        """
        for sample in samples:
            found = getattr(sample, 'pred_instances', None)
            objects = [
                one
                for one in self.objects.get(getattr(sample, 'img_id', None), [])
                if not one.get('ignore_flag') and one['bbox_label'] in self.labels
            ]
            if found is None or 'bboxes' not in found or not self.names:
                continue
            if self.counts is None:
                self.counts = np.zeros((len(self.names),) * 2, int)
            found = found[found.scores >= MIN_SCORE]
            if not len(found) or not objects:
                continue
            boxes = torch.tensor([one['bbox'] for one in objects], dtype=torch.float32)
            overlap, which = box_iou(boxes, found.bboxes.cpu().float()).max(1)
            for one, value, label in zip(objects, overlap, found.labels.cpu()[which]):
                own = self.labels[one['bbox_label']]
                if value >= MIN_IOU and own < len(self.names) > int(label):
                    self.counts[own, int(label)] += 1
