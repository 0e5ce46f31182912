"""Evaluating a teacher on the validation set of a runner."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

from mmengine.dataset import DefaultSampler
from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from ..taps import frozen_state
from ..teachers.loading import Teacher
from ..training.runtime import get_distiller


def evaluate_teacher(runner: Runner, teacher: Teacher, size: int) -> dict[str, Any]:
    """Return a teacher's metrics on part of the validation set.

    Args:
        runner: The runner, with `val_dataloader` and `val_evaluator`.
        teacher: The teacher, loaded.
        size: Number of images, evenly spaced over the validation set.
    """
    dataset = runner.val_dataloader.dataset
    total = len(dataset)
    indices = [i * total // size for i in range(size)]
    evaluator = _new_evaluator(runner)
    evaluator.dataset_meta = getattr(dataset, 'metainfo', None)
    if size < total:
        _restrict(evaluator, dataset, indices)
    model: Any = teacher.model
    student = get_distiller(runner, 'TeacherCheckHook').student
    # This also tells the teacher's data preprocessor the device of the images.
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


def data_classes(runner: Runner) -> tuple[str, ...] | None:
    """Return the class names of the validation data, else of the training data."""
    loop = runner.val_loop or runner.train_loop
    meta = getattr(loop.dataloader.dataset, 'metainfo', None) or {}
    classes = meta.get('classes')
    return None if classes is None else tuple(classes)


def _new_evaluator(runner: Runner) -> Evaluator:
    """Return a new evaluator: the runner's own must not keep these results."""
    given = runner._val_evaluator
    if isinstance(given, Evaluator):
        return copy.deepcopy(given)
    return runner.build_evaluator(copy.deepcopy(given))


def _restrict(evaluator: Evaluator, dataset: Any, indices: list[int]) -> None:
    """Tell metrics that read ground truth from a file which images are evaluated.

    Otherwise COCO metrics count the objects of all other images as missed.
    """
    for metric in evaluator.metrics:
        if hasattr(metric, 'img_ids') and hasattr(dataset, 'get_data_info'):
            metric.img_ids = [dataset.get_data_info(i)['img_id'] for i in indices]


def _loader(loader: DataLoader, indices: list[int]) -> DataLoader:
    """Return a loader of this rank's part of the images with these indices."""
    subset = Subset(loader.dataset, indices)
    return DataLoader(
        subset,
        batch_size=loader.batch_size or getattr(loader.batch_sampler, 'batch_size', 1),
        # Pads, so that all ranks have equally many images, as the evaluator expects.
        sampler=DefaultSampler(subset, shuffle=False, seed=0),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
    )
