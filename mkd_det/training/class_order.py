"""Checks that a label means the same class for teachers and for all data."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from torch import nn

from ..class_maps.class_map import ClassMap
from ..class_maps.matching import match_names
from ..data.datasets import dataset_classes
from ..data.labels import Labels, agreed_names, compare_labels, read_labels
from ..distiller.model import Distiller
from ..errors import ClassOrderError, TeacherClassesError
from ..teachers.loading import Teacher
from .class_names import recorded_labels, trained_labels

SPLITS = ('train', 'val', 'test')


def check_class_order(
    cfg: Mapping[str, Any], model: nn.Module, teachers: bool = True
) -> None:
    """Raise unless a label means the same class in all data and for all teachers.

    What cannot be compared is logged as a warning.

    Args:
        cfg: A config of a training; a hook with `check_classes=False` turns the check
            of the teachers off.
        model: Its model, teachers loaded.
        teachers: Whether to check the teachers.

    Raises:
        ClassOrderError: Train, validation and test data number the classes in
            different ways.
        TeacherClassesError: A teacher has other classes, or in another order.
    """
    student = model.student if isinstance(model, Distiller) else model
    if hasattr(student, 'language_model'):
        return  # its classes are given as text
    found = {split: read_labels(cfg, split) for split in SPLITS}
    lines = compare_labels([labels for part in found.values() for labels in part])
    if isinstance(model, Distiller) and teachers and _checks_classes(cfg):
        # Training and validation data can have different classes.
        for name, teacher in model.teachers.items():
            classes = model.plan.class_maps.get(name)
            if name in model.plan.taps or classes is not None:
                for split in ('train', 'val'):
                    lines += check_teacher_labels(
                        teacher, cfg, split, found[split], classes
                    )
    _warn(lines)


def check_test_labels(cfg: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Raise unless a label means the same class in the test data as in training.

    The checkpoint's record of its training counts, else the training data of the
    config.

    Args:
        cfg: Config of a test.
        meta: `meta` of the checkpoint that is tested.

    Raises:
        ClassOrderError: The test data numbers the classes in another way.
    """
    if 'language_model' in cfg['model']:
        return
    noted = recorded_labels(meta)
    trained = [Labels('the checkpoint', noted)] if noted else read_labels(cfg, 'train')
    _warn(compare_labels([*trained, *read_labels(cfg, 'test')]))


def check_start_labels(
    cfg: Mapping[str, Any], meta: Mapping[str, Any], source: str
) -> None:
    """Raise where a start has the classes of the data in another order.

    A start with other classes is left alone: its head is trained anew.

    Args:
        cfg: Config of a training.
        meta: `meta` of the checkpoint that the training starts from.
        source: The checkpoint and the key that names it, for messages.

    Raises:
        ClassOrderError: The same classes have other labels.
    """
    noted = recorded_labels(meta)
    names = agreed_names(read_labels(cfg, 'train'))
    if noted and noted != names and sorted(noted) == sorted(names):
        raise ClassOrderError(
            f'{source} was trained on the classes of the data in another order',
            expected=names,
            actual=noted,
            fix='the same order of categories in the annotation files as it was trained'
            ' with;\nor a start without its head: mkd-det export, and remove the keys'
            ' of the head',
        )


def check_teacher_labels(
    teacher: Teacher,
    cfg: Mapping[str, Any],
    split: str,
    found: Sequence[Labels] | None = None,
    classes: ClassMap | None = None,
) -> list[str]:
    """Raise unless a teacher was trained on the labels of the data.

    Or, with a class map, on those that the map is for.

    What its checkpoint notes of its data decides; else the annotation files that its
    config names. The class names of a checkpoint alone are those of `metainfo`, which
    is not the order of labels of a COCO json.

    Args:
        teacher: The teacher, loaded.
        cfg: Config of the data.
        split: 'train', 'val' or 'test'.
        found: `read_labels` of both.
        classes: The teacher's class map, if it has one.

    Returns:
        What could not be compared, in words.

    Raises:
        TeacherClassesError: Its classes differ, or their order.
    """
    found = read_labels(cfg, split) if found is None else found
    names = agreed_names(found)
    if not names:
        return []  # `compare_labels` says so
    own = teacher_labels(teacher)
    if classes is not None:
        return _check_mapped(teacher, classes, names, own, split)
    if own.names:
        if own.names != names:
            raise _other_classes(teacher, own.names, names, own.source)
        return []
    known = teacher.classes
    if known is None:
        return [f'teacher {teacher.name!r}: its checkpoint has no class names']
    if known not in {names, *_metainfo(cfg, split)}:
        raise _other_classes(teacher, known, names, 'its checkpoint')
    return [
        f'teacher {teacher.name!r}: its checkpoint has the class names of the data; in'
        f' which order its annotation file has them is not known ({own.unknown}), so'
        ' the order is not checked'
    ]


def teacher_labels(teacher: Teacher) -> Labels:
    """Return what the labels mean that a teacher was trained on.

    Args:
        teacher: The teacher, loaded.
    """
    return trained_labels(teacher.meta, teacher.source_cfg)


def is_described(cfg: Mapping[str, Any], split: str) -> bool:
    """Return whether a config tells what the labels of a split mean.

    Args:
        cfg: Config of a runner, which may have been built from objects instead.
        split: 'train', 'val' or 'test'.
    """
    loader = cfg.get(f'{split}_dataloader')
    if not isinstance(loader, Mapping) or not isinstance(
        loader.get('dataset'), Mapping
    ):
        return False
    return bool(agreed_names(read_labels(cfg, split)))


def _check_mapped(
    teacher: Teacher,
    classes: ClassMap,
    names: tuple[str, ...],
    own: Labels,
    split: str,
) -> list[str]:
    """Raise unless a class map is for the labels of the data and of the teacher.

    Returns:
        What could not be compared, in words.
    """
    where = f'teachers.{teacher.name}.class_map'
    lines = []
    if classes.ours.names and names != classes.ours.names:
        message = f'{where}: the {split} data has other classes than the map is for'
        if split != 'train':
            return [message]
        raise TeacherClassesError(
            message,
            expected=classes.ours.names,
            actual=names,
            fix='without model.classes, which are then taken from the training data',
        )
    given, key = classes.theirs.names, f'teachers.{teacher.name}.classes'
    known = own.names or teacher.classes
    if given and known and known != given:
        raise TeacherClassesError(
            f'{key} are not the classes that the teacher was trained on, as'
            f' {own.source if own.names else "its checkpoint"} says',
            expected=known,
            actual=given,
            fix=f'without model.{key}, which are then taken from there',
        )
    if not own.names:
        lines.append(
            f'teacher {teacher.name!r}: in which order the data that it was trained on'
            f' has its classes is not known ({own.unknown}), so the map goes by'
            ' the order of its class names'
        )
    return lines


def _other_classes(
    teacher: Teacher, own: Sequence[str], names: Sequence[str], source: str
) -> TeacherClassesError:
    same = sorted(own) == sorted(names)
    shared = match_names(names, own)
    advice = (
        f"teachers=dict({teacher.name}=dict(class_map='auto')): it teaches the"
        f' {len(shared)} of {len(names)} classes that both know\n'
    )
    return TeacherClassesError(
        f'teacher {teacher.name!r} was trained on '
        + ('these classes in another order' if same else 'other classes')
        + f', as {source} says',
        expected=tuple(names),
        actual=tuple(own),
        fix=(advice if shared else '')
        + 'the annotation files (of a COCO json: the order of its categories), or the'
        '\nmetainfo=dict(classes=...) of the data, as the teacher had it',
    )


def _metainfo(cfg: Mapping[str, Any], split: str) -> list[tuple[str, ...]]:
    """Return the class names that `metainfo` gives, which may have another order."""
    classes = dataset_classes(cfg, split)
    return [classes] if classes else []


def _warn(lines: Sequence[str]) -> None:
    for line in dict.fromkeys(lines):
        print_log(f'class order: {line}', logger='current', level=logging.WARNING)


def _checks_classes(cfg: Mapping[str, Any]) -> bool:
    hooks = [*cfg.get('default_hooks', {}).values(), *(cfg.get('custom_hooks') or [])]
    return not any(
        isinstance(h, dict) and h.get('check_classes') is False for h in hooks
    )
