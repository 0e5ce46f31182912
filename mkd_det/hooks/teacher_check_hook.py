"""Checks the teachers before the student trains."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ..class_maps.class_map import ClassMap
from ..class_maps.counting import class_count
from ..errors import ConfigError, TeacherChanceError, TeacherClassesError, nearest_names
from ..io.random_state import preserved_random_state
from ..preflight.metric_names import is_logged, metric_names
from ..teachers.loading import Teacher
from ..teachers.renormalize import image_preprocessor
from ..training.class_order import check_teacher_labels, is_described
from ..training.runtime import get_distiller
from .teacher_evaluation import data_classes, evaluate_teacher, sample_images

# Key in the message hub: the checkpoints of the teachers that were checked.
DONE = 'distill_teachers_checked'
# A detector with random weights has an mAP of a few thousandths, also on few images; a
# trained one has more than a hundredth.
CHANCE_MAP = 0.01


@HOOKS.register_module()
class TeacherCheckHook(Hook):
    """Evaluates every teacher on the validation set before the first iteration.

    Compares the teacher's classes (names, order, number) with those of the data; a
    teacher with a `class_map` is measured on the classes that both know. Logs where its
    normalisation and channel order differ from the student's, logs its metric in one
    line, and stops the training if the teacher is no better than chance. The metrics
    also go to the message hub and the visualizer, as `teacher/<name>/<metric>`.

    The teacher runs as in plain validation: with its own `data_preprocessor` and
    `test_cfg`, the pipeline of the validation set, and a new `val_evaluator`. The hook
    does not change the training, bit for bit. All ranks take part. A resumed run does
    not repeat the check.

    Args:
        num_images: Number of validation images to evaluate on, evenly spaced. None:
            all.
        metric: Name of the metric that is compared with `threshold`, as in the results
            of the evaluator (`coco/bbox_mAP`). None: the first name that contains 'mAP'
            or 'top1', else the first.
        threshold: A teacher below this value is no better than chance. None: 0.01 for
            an mAP; for a top1 in percent, 1.5 times the accuracy of guessing, or
            guessing plus a tenth of the rest if that is less; no comparison for other
            metrics. 0 never stops the training.
        check_classes: Whether the classes must agree. If False, a teacher with other
            classes, of which only features are used, is not evaluated.

    Raises:
        TeacherClassesError: The teacher's classes differ from those of the data.
        TeacherChanceError: The teacher is no better than chance.
        ConfigError: The evaluator has no metric called `metric`.
    """

    def __init__(
        self,
        num_images: int | None = None,
        metric: str | None = None,
        threshold: float | None = None,
        check_classes: bool = True,
    ) -> None:
        if num_images is not None and num_images < 1:
            raise ConfigError(
                'TeacherCheckHook: num_images must be at least 1',
                actual=num_images,
                fix='num_images=32, or None for all',
            )
        self.num_images, self.metric, self.threshold = num_images, metric, threshold
        self.check_classes = check_classes

    def check_before_start(self, cfg: Config, model: nn.Module) -> None:
        """Raise ConfigError if the validation does not measure `metric`.

        Args:
            cfg: Config of the training.
            model: Its model.
        """
        evaluator = cfg.get('val_evaluator')
        if self.metric and evaluator and is_logged(evaluator, self.metric) is False:
            self.main_metric(dict.fromkeys(metric_names(evaluator)))

    def before_train(self, runner: Runner) -> None:
        """Check every teacher."""
        distiller = get_distiller(runner, 'TeacherCheckHook')
        configs = {name: t.config for name, t in distiller.teachers.items()}
        sources = {n: str(c.stored or c.checkpoint) for n, c in configs.items()}
        if runner.message_hub.get_info(DONE, None) == sources:
            return
        with preserved_random_state():
            distiller.teachers.load()
            for name, teacher in distiller.teachers.items():
                model: Any = teacher.model
                theirs = image_preprocessor(model.data_preprocessor)
                ours = distiller.student.data_preprocessor
                for line in preprocessing_differences(ours, theirs):
                    print_log(f'Teacher {name}: {line}', logger=runner.logger)
                classes = distiller.plan.class_maps.get(name)
                if classes is not None:
                    print_log(f'Teacher {name}: {classes}', logger=runner.logger)
                agrees = self._classes_agree(runner, teacher, classes)
                if not teacher.runs:
                    print_log(
                        f'Teacher {name} is not evaluated: its outputs are stored,'
                        f' {teacher.weights}',
                        logger=runner.logger,
                    )
                elif agrees:
                    self._evaluate(runner, teacher, classes)
        runner.message_hub.update_info(DONE, sources)

    def _classes_agree(
        self, runner: Runner, teacher: Teacher, mapped: ClassMap | None
    ) -> bool:
        """Return whether the teacher's classes, or its map, are those of the data."""
        classes = data_classes(runner)
        if classes is None:
            return True
        try:
            split = 'train' if runner.val_loop is None else 'val'
            if is_described(runner.cfg, split):
                check_teacher_labels(teacher, runner.cfg, split, classes=mapped)
            elif mapped is None:
                teacher.check_classes(classes)
            if mapped is None:
                _check_class_count(teacher, len(classes))
            else:
                _check_map(mapped, classes)
        except TeacherClassesError as error:
            if self.check_classes:
                raise
            print_log(
                f'Teacher {teacher.name} is not evaluated: {error.message}',
                logger=runner.logger,
            )
            return False
        if teacher.classes is None and mapped is None:
            print_log(
                f'Teacher {teacher.name}: its checkpoint has no class names, so their'
                ' order cannot be compared with the data',
                logger=runner.logger,
            )
        return True

    def _evaluate(
        self, runner: Runner, teacher: Teacher, classes: ClassMap | None
    ) -> None:
        """Evaluate the teacher, log its metrics, and compare them with chance."""
        if runner.val_loop is None:
            print_log(
                f'Teacher {teacher.name} is not evaluated: the config has no'
                ' val_dataloader',
                logger=runner.logger,
            )
            return
        start = time.time()
        total = len(runner.val_dataloader.dataset)
        images = sample_images(runner, self.num_images)
        size = len(images)
        of = f'{size} of {total}' if size < total else f'all {total}'
        print_log(
            f'Evaluating teacher {teacher.name} on {of} validation images',
            logger=runner.logger,
        )
        metrics = evaluate_teacher(runner, teacher, images, classes)
        key, value = self.main_metric(metrics)
        result = 'no detections' if key is None else f'{key} {value:.4f}'
        print_log(
            f'Teacher {teacher.name} ({type(teacher.model).__name__}): {result} on'
            f' {of} validation images ({time.time() - start:.0f} s)',
            logger=runner.logger,
        )
        scalars = {
            f'teacher/{teacher.name}/{k}': float(v)
            for k, v in metrics.items()
            if isinstance(v, (int, float))
        }
        for name, scalar in scalars.items():
            runner.message_hub.update_scalar(name, scalar)
        if scalars:
            runner.visualizer.add_scalars(scalars, step=0)
        count = len(classes.shared) if classes else len(data_classes(runner) or ())
        self._compare_with_chance(runner, teacher, key, value, size, count)

    def main_metric(self, metrics: dict[str, Any]) -> tuple[str | None, float]:
        """Return name and value of the metric to compare.

        mmdet's COCO metric returns no metrics if nothing was detected: that is 0.

        Args:
            metrics: All of them, by name.

        Raises:
            ConfigError: The evaluator has no metric called `metric`.
        """
        if not metrics:
            return None, 0.0
        key = self.metric
        if key is None:
            known = (k for k in metrics if 'mAP' in k or 'top1' in k)
            key = next(known, next(iter(metrics)))
        if key not in metrics:
            raise ConfigError(
                f'TeacherCheckHook: the evaluator has no metric {key!r}',
                actual=key,
                available=nearest_names(key, metrics, limit=12),
            )
        return key, float(metrics[key])

    def _compare_with_chance(
        self,
        runner: Runner,
        teacher: Teacher,
        key: str | None,
        value: float,
        size: int,
        count: int,
    ) -> None:
        if math.isnan(value) or value < 0:
            # COCO's evaluation returns -1 for images without objects.
            print_log(
                f'Teacher {teacher.name}: these validation images have no objects, so'
                ' the metric has no meaning',
                logger=runner.logger,
            )
        else:
            self.check_chance(teacher, key, value, size, count)

    def check_chance(
        self, teacher: Teacher, key: str | None, value: float, size: int, count: int
    ) -> None:
        """Raise TeacherChanceError if a teacher is no better than chance.

        Args:
            teacher: The teacher.
            key: Name of the metric; None where nothing was detected.
            value: Its value.
            size: Number of images it was measured on.
            count: Number of classes; 0 where it is not known.
        """
        threshold = self.threshold
        if threshold is None:
            threshold = _chance(key, count)
        if value < threshold and not teacher.config.prune:
            raise TeacherChanceError(
                f'teacher {teacher.name!r} is no better than chance on {size}'
                ' validation images',
                expected=f'{key or "a metric"} of at least {threshold:g}',
                actual=f'{value:.4f}' if key else 'no detections',
                fix=f'check teachers.{teacher.name}: checkpoint'
                f' ({teacher.config.checkpoint}), class order,\n'
                'data_preprocessor, test_cfg. To train anyway:\n'
                'default_hooks=dict(teacher_check=dict('
                "type='TeacherCheckHook', threshold=0))",
            )


def _chance(key: str | None, classes: int) -> float:
    """Return the value of a metric that a trained teacher must reach.

    Args:
        key: Name of the metric.
        classes: Number of classes; 0 where it is not known.
    """
    if key is None or 'mAP' in key:
        return CHANCE_MAP
    if 'top1' in key and classes > 1:
        guessing = 100 / classes
        return min(1.5 * guessing, guessing + (100 - guessing) / 10)
    return 0.0


def _check_class_count(teacher: Teacher, count: int) -> None:
    """Raise TeacherClassesError if the teacher's head has another number of classes."""
    own = class_count(teacher.model)
    if own is not None and own != count:
        raise TeacherClassesError(
            f'teacher {teacher.name!r} has {own} classes, the data has {count}',
            expected=count,
            actual=own,
            fix=f"teachers=dict({teacher.name}=dict(class_map='auto')), which teaches"
            ' the classes that both know by name; or a teacher that was trained on the'
            ' classes of this data',
        )


def _check_map(mapped: ClassMap, names: tuple[str, ...]) -> None:
    """Raise TeacherClassesError if a class map is not for the classes of the data."""
    if mapped.ours.count != len(names) or (
        mapped.ours.names and set(mapped.ours.names) != set(names)
    ):
        raise TeacherClassesError(
            f'teachers.{mapped.teacher}.class_map is for other classes than the'
            ' validation data has',
            expected=', '.join(map(mapped.ours.name, range(mapped.ours.count))),
            actual=', '.join(names),
            fix='the same classes in the training and the validation data',
        )


def preprocessing_differences(student: Any, teacher: Any) -> Iterator[str]:
    """Yield differences between the data preprocessors of teacher and student.

    Args:
        student: The student's.
        teacher: The teacher's, see `image_preprocessor`.
    """
    for name, what in (('mean', 'mean'), ('std', 'standard deviation')):
        ours, theirs = (_numbers(getattr(m, name, None)) for m in (student, teacher))
        if ours != theirs:
            yield f'normalises with {what} {theirs}, the student with {ours}'
    flips = [getattr(m, '_channel_conversion', False) for m in (student, teacher)]
    if flips[0] != flips[1]:
        yield 'expects the colour channels in the reverse order of the student'


def _numbers(value: Any) -> list[float] | None:
    if not isinstance(value, torch.Tensor):
        return None
    return [round(v, 3) for v in value.flatten().tolist()]
