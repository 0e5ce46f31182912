"""The configs of student and teacher alone, on the data of the user."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...data.datasets import count_images
from ...data.layouts import Layout
from ...data.unlabeled import UnlabeledImages
from ...errors import ConfigError, MkdError
from ..memory import batch_part
from .config_text import student_text
from .data_part import Expression, data_part
from .model_part import scaled_schedule, with_classes
from .settings import TEACHER_CONFIG, DistillSettings

# Batch sizes of student and teacher; None for those of their configs.
Batches = tuple[int | None, int | None]
# A batch has at most so many unlabelled images for each labelled one.
UNLABELLED_RATIO = 3


def plain_texts(
    settings: DistillSettings,
    bases: tuple[Config, Config],
    layout: Layout | None,
    batches: Batches,
    divisor: int | None = None,
) -> tuple[dict[str, str], list[str]]:
    """Return the texts of the plain configs, and what is said of their batches.

    Args:
        settings: What the user asks for.
        bases: Configs of student and teacher, that the written ones inherit from.
        layout: The dataset of the user, if one was given.
        batches: Batch sizes of student and teacher; None for those of their configs.
        divisor: What the student's images are padded to multiples of, for the teacher.
    """
    lines = [] if layout is None else [f'Data: {layout.name}.', *layout.notes]
    parts, notes = _with_batch(settings, bases[0], layout, batches[0])
    parts = with_divisor(parts, divisor)
    texts = {
        'student.py': student_text(settings.base_of(settings.student), parts, lines)
    }
    if settings.checkpoint is None:
        # The teacher is trained first, on the same data.
        other = replace(settings, student=settings.teacher, unlabeled=None)
        parts, more = _with_batch(other, bases[1], layout, batches[1], ranks=1)
        texts[TEACHER_CONFIG] = student_text(
            settings.base_of(settings.teacher),
            parts,
            lines,
            'The teacher: it can be trained as it is.',
        )
        notes += [f'the teacher: {note}' for note in more]
    return texts, notes


def teacher_parts(
    settings: DistillSettings, cfg: Config, layout: Layout | None
) -> dict[str, Any]:
    """Return what the config of a teacher changes that is trained first.

    Args:
        settings: What the user asks for.
        cfg: Config of the teacher.
        layout: The dataset of the user, if one was given.
    """
    own = replace(settings, student=settings.teacher, unlabeled=None)
    return student_parts(own, cfg, layout)


def with_divisor(parts: dict[str, Any], divisor: int | None) -> dict[str, Any]:
    """Return changes of a config with images padded to multiples of a number.

    Args:
        parts: The changes, by variable.
        divisor: The number; None for that of the config.
    """
    if not divisor:
        return parts
    model = parts.get('model') or {}
    padded = {**(model.get('data_preprocessor') or {}), 'pad_size_divisor': divisor}
    return {**parts, 'model': {**model, 'data_preprocessor': padded}}


def _with_batch(
    settings: DistillSettings,
    cfg: Config,
    layout: Layout | None,
    batch: int | None,
    ranks: int | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Return the changes of a plain config, with a batch size, and notes on it."""
    if batch is None:
        return student_parts(settings, cfg, layout), []
    changed, notes = batch_part(cfg, batch, ranks)
    sized = Config(cfg.to_dict())
    sized.train_dataloader.batch_size = batch
    parts = student_parts(settings, sized, layout)
    loader = {**changed.pop('train_dataloader', {}), **parts['train_dataloader']}
    return {**parts, **changed, 'train_dataloader': loader}, notes


def student_parts(
    settings: DistillSettings, cfg: Config, layout: Layout | None
) -> dict[str, Any]:
    """Return what the written config of the student changes, by variable.

    Args:
        settings: What the user asks for.
        cfg: Config of the student, alone.
        layout: The dataset of the user, if one was given.
    """
    parts: dict[str, Any] = {}
    images = None
    if layout is not None:
        changed = with_classes(cfg.model.to_dict(), len(layout.classes))
        if changed:
            parts['model'] = changed
        # Nothing is written yet: these are the files that there will be.
        parts |= data_part(cfg, layout, layout.files(settings.folder.absolute()))
        images = len(layout.train.content['images'])
    if images is not None or settings.epochs is not None:
        parts |= scaled_schedule(cfg, images, settings.epochs)
    if settings.unlabeled is not None:
        _add_unlabelled(settings.unlabeled, cfg, parts, images)
    parts['default_hooks'] = dict(checkpoint=dict(max_keep_ckpts=2))
    return parts


def _add_unlabelled(
    folder: Path, cfg: Config, parts: dict[str, Any], images: int | None
) -> None:
    """Put images without labels behind the training data."""
    found = len(UnlabeledImages(str(folder.absolute()), pipeline=[], lazy_init=False))
    loader = parts.setdefault('train_dataloader', {})
    labelled = loader.pop('dataset', None) or Expression(
        '_base_.train_dataloader.dataset'
    )
    path, leaf = '_base_.train_dataloader.dataset', cfg.train_dataloader.dataset
    if 'pipeline' not in leaf or isinstance(leaf.get('dataset'), Mapping):
        raise ConfigError(
            '--unlabeled: the training data of the student is in a wrapper, or has'
            ' several parts',
            actual=leaf.get('type'),
            fix='ConcatDataset with UnlabeledImages in a config of your own; see'
            ' docs/unlabelled.md',
        )
    if isinstance(labelled, dict):
        labelled.pop('_delete_')
    if images is None:
        with suppress(MkdError):  # checks of the data say what is wrong
            images = count_images(cfg)
    times = 1 if images is None else ceil(found / (UNLABELLED_RATIO * images))
    if times > 1:
        labelled = dict(type='RepeatDataset', times=times, dataset=labelled)
    unlabelled = dict(
        type='UnlabeledImages',
        images=str(folder.absolute()),
        pipeline=Expression(f'{path}.pipeline'),
    )
    loader['dataset'] = dict(
        _delete_=True,
        type='ConcatDataset',
        ignore_keys=['classes', 'palette'],
        datasets=[labelled, unlabelled],
    )
