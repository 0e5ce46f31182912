"""A teacher must know more than chance, on real images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from ....errors import TeacherChanceError
from ....hooks.teacher_evaluation import data_classes
from ..examination import Examination
from ..finding import OK, WARNING, Finding
from ..teacher_metrics import configured_hook, is_checked, measured_teachers

POSITION = 30


def check(case: Examination) -> Iterator[Finding]:
    """Measure each teacher on validation images."""
    case.model  # noqa: B018 (nothing is examined without it)
    if case.cfg.get('val_dataloader') is None:
        yield Finding(
            'teacher',
            WARNING,
            'not measured: the config has no val_dataloader',
            'val_dataloader, val_evaluator and val_cfg in the config',
        )
        return
    hook = configured_hook(case.cfg)
    for name, found in measured_teachers(case).items():
        key, value = hook.main_metric(found.metrics)
        if math.isnan(value) or value < 0:
            yield Finding(
                'teacher',
                WARNING,
                f'{name}: the {found.images} images have no objects, so {key} says'
                ' nothing',
                '--images with a larger number',
            )
            continue
        classes = case.model.plan.class_maps.get(name)
        count = len(classes.shared if classes else data_classes(case.runner) or ())
        teacher = case.model.teachers[name]
        try:
            hook.check_chance(teacher, key, value, found.images, count)
        except TeacherChanceError as error:
            wrong = Finding.of_error('teacher', error)
            # A config that has turned the check off would be trained.
            yield wrong if is_checked(case.cfg) else replace(wrong, level=WARNING)
            continue
        yield Finding(
            'teacher',
            OK,
            f'{name}: {key} {value:.3f} on {found.images} validation images',
        )
