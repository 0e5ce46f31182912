"""Finds out what a teacher is worth, before a student spends days on it."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from ..errors import ConfigError, TeacherChanceError, TeacherClassesError, nearest_names
from ..io.random_state import preserved_random_state
from ..taps import frozen_state
from ..teachers.bank import Teacher
from ..training.runtime import class_count, get_distiller

DONE = 'distill_teachers_checked'
# A detector with random weights reaches an mAP of some thousandths, also on few
# images; one that has learned anything is above a hundredth.
CHANCE_MAP = 0.01


@HOOKS.register_module()
class TeacherCheckHook(Hook):
    """Measures every teacher on the validation set before the first iteration.

    Compares the teacher's classes (names, order, number) with the data's, logs
    where its normalisation and channel order differ from the student's, logs
    its figure in one line, and stops the training when it is no better than
    chance. The figure also goes to the message hub and the visualizer, as
    `teacher/<name>/<metric>`.

    The teacher runs as a plain model would in validation: its own
    `data_preprocessor` and `test_cfg`, the validation set's pipeline, the
    config's `val_evaluator` built afresh. Training is the same, bit for bit,
    with this hook and without. All ranks take part. A resumed run does not
    check again.

    Args:
        num_images: Measure on so many images, evenly spread over the validation
            set; None for all of it.
        metric: Name of the metric that is compared with `threshold`, as the
            evaluator calls it (`coco/bbox_mAP`); None for the first whose name
            contains 'mAP' or 'top1', or else the first.
        threshold: A teacher below this is no better than chance. None: 0.01
            for an mAP; for a top1 in percent, 1.5 times what guessing gives (with
            few classes: that, and a tenth of the rest); no comparison for other
            metrics. 0 never stops.
        check_classes: Whether classes must agree. Without, a teacher of other
            classes (that gives features alone) is not measured.

    Raises:
        TeacherClassesError: The teacher's classes are not the data's.
        TeacherChanceError: The teacher is no better than chance.
        ConfigError: The evaluator yields no metric called `metric`.
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
                'TeacherCheckHook: num_images must be at least 1', actual=num_images
            )
        self.num_images, self.metric, self.threshold = num_images, metric, threshold
        self.check_classes = check_classes

    def before_train(self, runner: Runner) -> None:
        """Check every teacher."""
        distiller = get_distiller(runner, 'TeacherCheckHook')
        sources = {name: str(t.checkpoint) for name, t in distiller.teachers.items()}
        if runner.message_hub.get_info(DONE, None) == sources:
            return
        with preserved_random_state():
            distiller.teachers.load()
            for name, teacher in distiller.teachers.items():
                for line in _differences(
                    distiller.student.data_preprocessor, teacher.model.data_preprocessor
                ):
                    print_log(f'Teacher {name}: {line}', logger=runner.logger)
                if self._classes_agree(runner, teacher):
                    self._check_figure(runner, teacher)
        runner.message_hub.update_info(DONE, sources)

    def _classes_agree(self, runner: Runner, teacher: Teacher) -> bool:
        """Whether the teacher's classes are the data's."""
        classes = _classes_of(runner)
        if classes is None:
            return True
        try:
            teacher.check_classes(classes)
            _check_count(teacher, len(classes))
        except TeacherClassesError as error:
            if self.check_classes:
                raise
            print_log(
                f'Teacher {teacher.name} is not measured: {error.message}',
                logger=runner.logger,
            )
            return False
        if teacher.classes is None:
            print_log(
                f'Teacher {teacher.name}: its checkpoint names no classes; their'
                ' order cannot be compared with the data',
                logger=runner.logger,
            )
        return True

    def _check_figure(self, runner: Runner, teacher: Teacher) -> None:
        """Measure, log, and compare with chance."""
        if runner.val_loop is None:
            print_log(
                f'Teacher {teacher.name} cannot be measured: the config has no'
                ' val_dataloader',
                logger=runner.logger,
            )
            return
        start = time.time()
        total = len(runner.val_dataloader.dataset)
        size = min(self.num_images or total, total)
        of = f'{size} of {total}' if size < total else f'all {total}'
        print_log(
            f'Measuring teacher {teacher.name} on {of} validation images',
            logger=runner.logger,
        )
        metrics = self._measure(runner, teacher, size)
        key, figure = self._figure(metrics)
        said = 'no detection at all' if key is None else f'{key} {figure:.4f}'
        print_log(
            f'Teacher {teacher.name} ({type(teacher.model).__name__}): {said} on'
            f' {of} validation images ({time.time() - start:.0f} s)',
            logger=runner.logger,
        )
        scalars = {
            f'teacher/{teacher.name}/{k}': float(v)
            for k, v in metrics.items()
            if isinstance(v, (int, float))
        }
        for name, value in scalars.items():
            runner.message_hub.update_scalar(name, value)
        if scalars:
            runner.visualizer.add_scalars(scalars, step=0)
        self._compare(runner, teacher, key, figure, size)

    def _figure(self, metrics: dict[str, Any]) -> tuple[str | None, float]:
        """Name and value of the figure that counts. mmdet's COCO metric yields
        nothing when nothing was detected: that is 0."""
        if not metrics:
            return None, 0.0
        key = self.metric
        if key is None:
            known = (k for k in metrics if 'mAP' in k or 'top1' in k)
            key = next(known, next(iter(metrics)))
        if key not in metrics:
            raise ConfigError(
                'TeacherCheckHook: the evaluator yields no such metric',
                actual=key,
                available=nearest_names(key, metrics, limit=12),
            )
        return key, float(metrics[key])

    def _compare(
        self,
        runner: Runner,
        teacher: Teacher,
        key: str | None,
        figure: float,
        size: int,
    ) -> None:
        threshold = self.threshold
        if threshold is None:
            threshold = _chance(key, _classes_of(runner))
        if math.isnan(figure) or figure < 0:
            # What COCO's evaluation says when there is nothing to find.
            print_log(
                f'Teacher {teacher.name}: these images hold no object to find, so'
                ' nothing is known about it',
                logger=runner.logger,
            )
        elif figure < threshold and not teacher.prune:
            raise TeacherChanceError(
                f'teacher {teacher.name!r} is no better than chance on {size}'
                ' validation images',
                expected=f'{key or "a metric"} of at least {threshold:g}',
                actual=f'{figure:.4f}' if key else 'no detection at all',
                fix=f'look at teachers.{teacher.name}: checkpoint'
                f' ({teacher.checkpoint}), order of the classes,\n'
                'data_preprocessor, test_cfg. To train all the same:\n'
                'default_hooks=dict(teacher_check=dict('
                "type='TeacherCheckHook', threshold=0))",
            )

    def _measure(self, runner: Runner, teacher: Teacher, size: int) -> dict[str, Any]:
        """The teacher's metrics on so many images."""
        dataset = runner.val_dataloader.dataset
        total = len(dataset)
        indices = [i * total // size for i in range(size)]
        evaluator = _fresh_evaluator(runner)
        evaluator.dataset_meta = getattr(dataset, 'metainfo', None)
        if size < total:
            _limit_to(evaluator, dataset, indices)
        model: Any = teacher.model
        student = get_distiller(runner, 'TeacherCheckHook').student
        # Also tells its data preprocessor where to put the images.
        model.to(next(student.parameters()).device)
        with frozen_state(model):
            for batch in tqdm(
                _loader(runner.val_dataloader, indices),
                desc=f'teacher {teacher.name}',
                leave=False,
                disable=None if is_main_process() else True,
            ):
                outputs = model.val_step(batch)
                evaluator.process(data_samples=outputs, data_batch=batch)
        # pycocotools prints its tables.
        with contextlib.redirect_stdout(io.StringIO()):
            return dict(evaluator.evaluate(size))


def _fresh_evaluator(runner: Runner) -> Evaluator:
    """An evaluator of its own: the runner's must not keep our results."""
    given = runner._val_evaluator
    if isinstance(given, Evaluator):
        return copy.deepcopy(given)
    return runner.build_evaluator(copy.deepcopy(given))


def _limit_to(evaluator: Evaluator, dataset: Any, indices: list[int]) -> None:
    """Tell metrics that take their ground truth from a file (COCO's) which
    images count; the others would count as missed."""
    for metric in evaluator.metrics:
        if hasattr(metric, 'img_ids') and hasattr(dataset, 'get_data_info'):
            metric.img_ids = [dataset.get_data_info(i)['img_id'] for i in indices]


def _loader(loader: DataLoader, indices: list[int]) -> DataLoader:
    """A loader of some images of `loader`'s data set, this rank's share."""
    subset = Subset(loader.dataset, indices)
    return DataLoader(
        subset,
        batch_size=loader.batch_size or getattr(loader.batch_sampler, 'batch_size', 1),
        # Rounds up, so that ranks have equally many, as the evaluator expects.
        sampler=DefaultSampler(subset, shuffle=False, seed=0),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
    )


def _classes_of(runner: Runner) -> tuple[str, ...] | None:
    """Class names of the data."""
    loop = runner.val_loop or runner.train_loop
    meta = getattr(loop.dataloader.dataset, 'metainfo', None) or {}
    classes = meta.get('classes')
    return None if classes is None else tuple(classes)


def _chance(key: str | None, classes: tuple[str, ...] | None) -> float:
    """What a teacher must reach in that metric to have learned anything."""
    if key is None or 'mAP' in key:
        return CHANCE_MAP
    if 'top1' in key and classes and len(classes) > 1:
        guessing = 100 / len(classes)
        return min(1.5 * guessing, guessing + (100 - guessing) / 10)
    return 0.0


def _check_count(teacher: Teacher, count: int) -> None:
    """Without names in its checkpoint, a teacher's head still has a number."""
    own = class_count(teacher.model)
    if own is not None and own != count:
        raise TeacherClassesError(
            f'teacher {teacher.name!r} tells {own} classes apart, the data has {count}',
            expected=count,
            actual=own,
            fix='a teacher that was trained on the classes of this data',
        )


def _differences(student: Any, teacher: Any) -> Iterator[str]:
    """In what the teacher wants its images otherwise than the student."""
    for name, what in (('mean', 'mean'), ('std', 'standard deviation')):
        ours, theirs = (_numbers(getattr(m, name, None)) for m in (student, teacher))
        if ours != theirs:
            yield f'normalises with {what} {theirs}, the student with {ours}'
    flips = [getattr(m, '_channel_conversion', False) for m in (student, teacher)]
    if flips[0] != flips[1]:
        yield 'takes the colour channels in the reverse order of the student'


def _numbers(value: Any) -> list[float] | None:
    if not isinstance(value, torch.Tensor):
        return None
    return [round(v, 3) for v in value.flatten().tolist()]
