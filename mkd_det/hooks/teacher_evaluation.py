"""Evaluating a teacher on the validation set of a runner."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from mmdet.evaluation import MultiDatasetsEvaluator
from mmengine.dataset import DefaultSampler
from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from ..class_maps.class_map import ClassMap
from ..class_maps.samples import shared_metainfo, shared_samples
from ..taps import frozen_state
from ..teachers.loading import Teacher
from ..training.runtime import get_distiller


def sample_images(runner: Runner, size: int | None) -> list[int]:
    """Return indices of validation images, evenly spaced.

    Where each part of the data has a metric of its own, each part gets an image.

    Args:
        runner: The runner, with `val_dataloader` and `val_evaluator`.
        size: Number of images; None for all.
    """
    dataset = runner.val_dataloader.dataset
    total = len(dataset)
    size = min(size or total, total)
    chosen = {i * total // size for i in range(size)}
    if isinstance(runner.val_evaluator, MultiDatasetsEvaluator):
        starts = [0, *_ends(dataset)[:-1]]
        for start, end in zip(starts, _ends(dataset)):
            if chosen.isdisjoint(range(start, end)):
                chosen.add(start)
    return sorted(chosen)


def evaluate_teacher(
    runner: Runner,
    teacher: Teacher,
    indices: list[int],
    classes: ClassMap | None = None,
    observe: Callable[[Sequence[Any]], None] | None = None,
) -> dict[str, Any]:
    """Return a teacher's metrics on part of the validation set.

    Args:
        runner: The runner, with `val_dataloader` and `val_evaluator`.
        teacher: The teacher, loaded.
        indices: The images to evaluate on, in order.
        classes: Its class map: the classes that it shares with the data are measured.
            None: it has the classes of the data.
        observe: Gets the samples of each batch, with the teacher's predictions.

    Returns:
        The metrics; none where no image could be evaluated.
    """
    dataset = runner.val_dataloader.dataset
    evaluator = _new_evaluator(runner)
    meta = getattr(dataset, 'metainfo', None)
    evaluator.dataset_meta = shared_metainfo(meta, classes) if classes else meta
    if len(indices) < len(dataset):
        _restrict(evaluator, dataset, indices)
    model: Any = teacher.model
    student = get_distiller(runner, 'TeacherCheckHook').student
    # This also tells the teacher's data preprocessor the device of the images.
    model.to(next(student.parameters()).device)
    evaluated = 0
    with frozen_state(model):
        for batch in tqdm(
            _loader(runner.val_dataloader, indices),
            desc=f'teacher {teacher.name}',
            leave=False,
            disable=None if is_main_process() else True,
        ):
            outputs = model.val_step(batch)
            if classes is not None:
                outputs = shared_samples(outputs, classes)
            if observe is not None:
                observe(outputs)
            if outputs:
                evaluator.process(data_samples=outputs, data_batch=batch)
            evaluated += len(outputs)
    if not evaluated:
        return {}
    # pycocotools prints its tables.
    with contextlib.redirect_stdout(io.StringIO()):
        return dict(evaluator.evaluate(len(indices)))


def data_classes(runner: Runner) -> tuple[str, ...] | None:
    """Return the class names of the validation data, else of the training data.

    None if they are not known, or differ between the parts of the data.
    """
    loop = runner.val_loop or runner.train_loop
    meta = getattr(loop.dataloader.dataset, 'metainfo', None) or {}
    # A concatenated dataset whose parts differ in any key has one for each part.
    parts = [meta] if isinstance(meta, Mapping) else meta
    found = {tuple(part.get('classes') or ()) for part in parts}
    return (found.pop() or None) if len(found) == 1 else None


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
    shown = [indices] * len(evaluator.metrics)
    if isinstance(evaluator, MultiDatasetsEvaluator):
        ends = _ends(dataset)
        limits = list(zip([0, *ends[:-1]], ends))
        shown = [[i for i in indices if a <= i < b] for a, b in limits]
        counted = list(accumulate(map(len, shown)))
        meta: Any = copy.deepcopy(evaluator.dataset_meta)
        parts: list[Any] = [meta] if isinstance(meta, Mapping) else meta
        for part in parts:
            part['cumulative_sizes'] = counted
        evaluator.dataset_meta = meta
    for metric, images in zip(evaluator.metrics, shown):
        if hasattr(metric, 'img_ids') and hasattr(dataset, 'get_data_info'):
            metric.img_ids = [dataset.get_data_info(i)['img_id'] for i in images]


def _ends(dataset: Any) -> list[int]:
    """Return the index after the last image of each part of a concatenated dataset."""
    return list(dataset.cumulative_sizes)


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
