"""Checks that the images of a training can be found again in stored outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from torch import nn

from ...data.check import MAX_IMAGES
from ...distiller.model import Distiller
from ...errors import ConfigError, DataError
from ...io.random_state import preserved_random_state
from ...registry import type_name
from ...teachers.stored.outputs import HOMOGRAPHY, META_KEYS

# Transforms that note in `homography_matrix` what they do.
GEOMETRIC = frozenset(
    {
        'FixScaleResize',
        'FixShapeResize',
        'RandomChoiceResize',
        'RandomCrop',
        'RandomFlip',
        'RandomResize',
        'Resize',
    }
)
# Transforms that leave every pixel at its place, or pad on the right and below.
STILL = frozenset(
    {
        'AutoContrast',
        'Brightness',
        'Color',
        'ColorTransform',
        'Contrast',
        'Corrupt',
        'Equalize',
        'FilterAnnotations',
        'Invert',
        'LoadAnnotations',
        'LoadImageFromFile',
        'PackDetInputs',
        'Pad',
        'PhotoMetricDistortion',
        'Posterize',
        'RandomGrayscale',
        'Sharpness',
        'Solarize',
        'SolarizeAdd',
        'YOLOXHSVRandomAug',
    }
)
# Transforms that hold others.
_WRAPPERS = ('Compose', 'RandomApply', 'RandomChoice')


def check_stored_teachers(cfg: Config, model: nn.Module, dataset: Any) -> None:
    """Raise where stored outputs cannot be put on the images of the training.

    Args:
        cfg: Config of the training.
        model: Its model.
        dataset: Its training data, built.

    Raises:
        ConfigError: A transform is not known to be a flip, a resize or a crop, or
            samples do not say what was done to them.
        DataError: Images are not in the file.
        TeacherError: The file was made with another head.
    """
    if not isinstance(model, Distiller):
        return
    stored = [teacher for teacher in model.teachers.values() if not teacher.runs]
    if not stored:
        return
    names = [*_transforms(dataset), *_switched(cfg)]
    unknown = [name for name in names if name not in GEOMETRIC | STILL]
    if unknown:
        raise ConfigError(
            f'{unknown[0]}: outputs of teacher {stored[0].name!r} are stored, and'
            ' cannot follow this transform',
            expected=', '.join(sorted(GEOMETRIC)) + ', and changes of colour',
            actual=', '.join(dict.fromkeys(names)),
            fix=f'a pipeline without {unknown[0]}; or no `stored` in'
            f' teachers.{stored[0].name}, so that the teacher sees each image',
        )
    for teacher in stored:
        if teacher.outputs is not None:
            for tap in model.plan.taps.get(teacher.name, {}).values():
                teacher.outputs.reader_of(tap.resolve(teacher.model)[0][1])
    for part in _parts(dataset):
        with preserved_random_state():
            sample = part[0].get('data_samples')
        meta = getattr(sample, 'metainfo', {})
        if HOMOGRAPHY not in meta:
            raise ConfigError(
                'samples do not say how their images were transformed, which stored'
                ' outputs need',
                expected=f'{HOMOGRAPHY!r} in meta_keys of PackDetInputs, behind Resize',
                actual=', '.join(meta),
                fix=f"dict(type='PackDetInputs', {META_KEYS})",
            )
        for teacher in stored:
            if teacher.outputs is not None:
                _check_images(teacher.name, teacher.outputs.store, part)


def _check_images(name: str, store: Any, dataset: Any) -> None:
    """Raise DataError unless the store has all images of a dataset."""
    step = max(len(dataset) // MAX_IMAGES, 1)
    indices = range(0, len(dataset), step)
    paths = [dataset.get_data_info(i)['img_path'] for i in indices]
    known = store.has(paths)
    missing = [path for path in paths if path not in known]
    if missing:
        raise DataError(
            f'teachers.{name}.stored has no soft labels of {len(missing)} of'
            f' {len(paths)} training images' + (' in a sample' if step > 1 else ''),
            actual=missing[0],
            fix='mkd-det label TEACHER_CONFIG CHECKPOINT IMAGES --soft --out'
            f' {store.path}, which adds the images that are missing',
        )


def _parts(dataset: Any) -> Iterator[Any]:
    """Yield the innermost datasets."""
    inner = getattr(dataset, 'datasets', None)
    if inner is None and hasattr(dataset, 'dataset'):
        inner = [dataset.dataset]
    if inner is None:
        yield dataset
    else:
        for part in inner:
            yield from _parts(part)


def _transforms(dataset: Any) -> Iterator[str]:
    """Yield the names of all transforms of a dataset and of those inside of it."""
    yield from _names(getattr(dataset, 'pipeline', ()))
    for part in getattr(dataset, 'datasets', ()):
        yield from _transforms(part)
    if hasattr(dataset, 'dataset'):
        yield from _transforms(dataset.dataset)


def _names(transform: Any) -> Iterator[str]:
    if isinstance(transform, (list, tuple)):
        for one in transform:
            yield from _names(one)
    elif type(transform).__name__ in _WRAPPERS:
        yield from _names(list(transform.transforms))
    else:
        yield type(transform).__name__


def _switched(cfg: Config) -> Iterator[str]:
    """Yield the names of the transforms that hooks switch to later."""
    for hook in cfg.get('custom_hooks') or ():
        for step in hook.get('switch_pipeline') or ():
            yield type_name(step.get('type'))
