"""Looks at two models and the data, and makes the configs of a distillation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.config import Config
from torch import nn

from ...checkpoints.checkpoint import read_checkpoint, read_class_names, read_meta
from ...class_maps.counting import class_count
from ...config import TeacherConfig
from ...config_files.reading import load_config
from ...data.datasets import dataset_classes
from ...data.formats.annotations import list_names
from ...data.layouts import Layout, find_layout
from ...data.unlabeled import UnlabeledImages
from ...errors import ConfigError, PathError
from ...teachers.loading import Teacher
from ...training.class_names import with_class_names
from ...training.resume import has_begun
from ...training.runtime import build_model, is_distill
from .choice import AUTO, Choice, choose_recipe
from .config_text import distill_text, student_text
from .data_part import Expression, data_part
from .model_part import common_divisor, scaled_schedule, with_classes

# The written config of a teacher that is trained first.
TEACHER_CONFIG = 'teacher.py'
# A batch has at most so many unlabelled images for each labelled one.
UNLABELLED_RATIO = 3


@dataclass(frozen=True)
class DistillSettings:
    """What a user asks for.

    Args:
        student: Config of the student, alone.
        teacher: Config of the teacher.
        checkpoint: The teacher's weights; None to train the teacher first.
        work_dir: Folder for configs, logs and checkpoints.
        recipe: Name of a recipe, or 'auto'.
        data: A COCO json or the folder of a dataset; None for the student's own data.
        unlabeled: Folder of images without labels.
        epochs: Length of the training; by the number of images if None.
        init: Checkpoint that the student starts from.
    """

    student: str
    teacher: str
    checkpoint: str | None
    work_dir: Path
    recipe: str = AUTO
    data: Path | None = None
    unlabeled: Path | None = None
    epochs: int | None = None
    init: str | None = None

    @property
    def folder(self) -> Path:
        """Folder of the written configs."""
        return self.work_dir / 'configs'

    @property
    def run_dir(self) -> Path:
        """Folder of the training."""
        return self.work_dir / 'distill'

    @property
    def teacher_dir(self) -> Path:
        """Folder of the teacher's training, if it is trained first."""
        return self.work_dir / 'teacher'


@dataclass(frozen=True)
class PreparedDistillation:
    """The configs of a distillation, before they are written.

    Args:
        texts: Text of each config, by file name.
        choice: The recipe, and why the others do not fit.
        notes: What was decided, a sentence each.
        warnings: What a person should know, a sentence each.
        sizes: Parameters of student and teacher.
        layout: The dataset of the user, if one was given.
    """

    texts: dict[str, str]
    choice: Choice
    notes: list[str]
    warnings: list[str]
    sizes: dict[str, int]
    layout: Layout | None = None

    def write(self, folder: Path) -> list[Path]:
        """Write the configs, and annotations that were converted.

        Args:
            folder: Where to: `DistillSettings.folder`.

        Raises:
            PathError: A config there was edited, or is of other settings.
        """
        files = {folder / name: text for name, text in self.texts.items()}
        for file, text in files.items():
            if file.is_file() and file.read_text(encoding='utf-8') != text:
                raise PathError(
                    'a config was written before, and is not what would be written now',
                    actual=str(file),
                    fix=f'mkd-det train {folder / "distill.py"}, to train it as it is;'
                    ' or another --work-dir',
                )
        folder.mkdir(parents=True, exist_ok=True)
        if self.layout is not None:
            self.layout.write(folder)
        for file, text in files.items():
            file.write_text(text, encoding='utf-8')
        return list(files)


def prepare(settings: DistillSettings, resume: bool = False) -> PreparedDistillation:
    """Choose the recipe and make the configs. Nothing is written.

    Args:
        settings: What the user asks for.
        resume: Whether a training that has begun in the work dir is to go on.

    Raises:
        MkdError: The models or the data cannot be used together.
    """
    _check_settings(settings, resume)
    student, teacher = load_config(settings.student), load_config(settings.teacher)
    if is_distill(student):
        raise ConfigError(
            '--student is a distill config',
            expected='a config that trains the student alone',
            fix=f'mkd-det train {settings.student}',
        )
    if settings.init is not None:
        read_checkpoint(settings.init)  # raises before anything is written
    layout = None if settings.data is None else find_layout(settings.data.absolute())
    parts = _student_parts(settings, student, layout)
    divisor = common_divisor(student, teacher)
    if divisor:
        preprocessor = parts.setdefault('model', {}).setdefault('data_preprocessor', {})
        preprocessor['pad_size_divisor'] = divisor
    classes = (
        layout.classes if layout is not None else dataset_classes(student, 'train')
    )
    model = build_model(_with_parts(student, parts))
    if settings.checkpoint is None:  # it will have the classes of the data
        own = _with_parts(teacher, _teacher_parts(settings, teacher, layout))
        big: nn.Module = build_model(own)
    else:
        big = Teacher.build('t', _teacher_settings(settings)).model
    choice = choose_recipe(model, big, settings.recipe)
    notes, warnings = _notes(layout, choice), []
    if divisor:
        notes.append(f'images are padded to multiples of {divisor}, for the teacher')
    given = _teacher_settings(settings)
    theirs = _teacher_classes(settings)
    others = bool(theirs and classes and tuple(theirs) != tuple(classes))
    if others or class_count(model) != class_count(big):
        given['class_map'] = 'auto'
        notes.append('the teacher has other classes: they are matched by name')
    sizes = {'student': _parameters(model), 'teacher': _parameters(big)}
    if sizes['student'] >= sizes['teacher']:
        warnings.append(
            f'the student has {sizes["student"]:,} parameters, the teacher'
            f' {sizes["teacher"]:,}: are they swapped?'
        )
    texts = {
        'student.py': student_text(
            _base(settings.student, settings.folder), parts, _student_lines(layout)
        ),
        'distill.py': distill_text(
            'student.py',
            choice.recipe.name,
            given,
            _lines(settings, notes),
            {'load_from': settings.init} if settings.init else {},
        ),
    }
    if settings.checkpoint is None:
        texts[TEACHER_CONFIG] = _teacher_text(settings, teacher, layout)
    prepared = PreparedDistillation(texts, choice, notes, warnings, sizes, layout)
    _verify(prepared, settings)
    return prepared


def _verify(prepared: PreparedDistillation, settings: DistillSettings) -> None:
    """Build what was made, in a folder of its own, so that errors come before files."""
    with TemporaryDirectory(prefix='mkd_distill') as name:
        folder = Path(name).resolve()
        paths = {str(settings.folder.absolute()): str(folder)}
        for config in (settings.student, settings.teacher):
            written = _base(config, settings.folder)
            paths[repr(written)] = repr(_absolute(config))
        texts = prepared.texts
        for before, after in paths.items():
            texts = {file: text.replace(before, after) for file, text in texts.items()}
        replace(prepared, texts=texts).write(folder)
        cfg = with_class_names(load_config(str(folder / 'distill.py')))
        model = build_model(cfg)
        if settings.checkpoint is not None:
            model.teachers.load()


def _check_settings(settings: DistillSettings, resume: bool) -> None:
    """Raise for what can be told before a model is built."""
    files = [settings.student, settings.teacher]
    if files[0] == files[1] or (
        all(os.path.exists(file) for file in files) and os.path.samefile(*files)
    ):
        raise ConfigError(
            '--student and --teacher are the same config',
            actual=files[0],
            expected='a big detector as teacher, a smaller one as student',
        )
    if settings.epochs is not None and settings.epochs < 1:
        raise ConfigError('--epochs must be at least 1', actual=settings.epochs)
    if has_begun(str(settings.run_dir)) and not resume:
        raise PathError(
            '--work-dir holds a distillation that has begun',
            actual=str(settings.run_dir),
            fix=f'--resume to go on with it, or --work-dir {settings.work_dir}_2',
        )


def _student_parts(
    settings: DistillSettings, cfg: Config, layout: Layout | None
) -> dict[str, Any]:
    """Return what the written config of the student changes, by variable."""
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
    if isinstance(leaf.get('dataset'), Mapping):
        raise ConfigError(
            '--unlabeled: the training data of the student is in a wrapper',
            actual=leaf.get('type'),
            fix='ConcatDataset with UnlabeledImages in a config of your own; see'
            ' docs/unlabelled.md',
        )
    if isinstance(labelled, dict):
        labelled.pop('_delete_')
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


def _with_parts(cfg: Config, parts: Mapping[str, Any]) -> Config:
    """Return a config with the changed model, to build it."""
    changed = Config(cfg.to_dict())
    changed.merge_from_dict({'model': parts.get('model', {})})
    return changed


def _teacher_settings(settings: DistillSettings) -> dict[str, Any]:
    checkpoint = settings.checkpoint
    if checkpoint is None:
        return dict(
            cfg=str((settings.folder / TEACHER_CONFIG).absolute()),
            checkpoint=str((settings.teacher_dir / 'last.pth').absolute()),
        )
    if '://' not in checkpoint:
        checkpoint = os.path.abspath(checkpoint)
    return dict(cfg=_absolute(settings.teacher), checkpoint=checkpoint)


def _teacher_classes(settings: DistillSettings) -> tuple[str, ...] | None:
    """Return the classes that the teacher's checkpoint says it was trained on."""
    if settings.checkpoint is None:
        return None
    config = TeacherConfig(**_teacher_settings(settings))
    content = read_checkpoint(str(config.checkpoint))
    return read_class_names(read_meta(content))


def _absolute(config: str) -> str:
    return config if '::' in config else os.path.abspath(config)


def _base(config: str, folder: Path) -> str:
    return config if '::' in config else os.path.relpath(config, folder)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _notes(layout: Layout | None, choice: Choice) -> list[str]:
    """Return what was decided about data and recipe."""
    notes = []
    if layout is not None:
        count = len(layout.train.content['images'])
        notes.append(
            f'data: {layout.name}, {count} training images, {len(layout.classes)}'
            f' classes: {list_names(layout.classes)}'
        )
        notes += layout.notes
        if layout.test is None:
            notes.append('no test split: test figures are those of the validation data')
    others = ', '.join(name for name in choice.fits if name != choice.recipe.name)
    notes.append(
        f'recipe {choice.recipe.name}' + (f' ({others} fit too)' * bool(others))
    )
    return notes


def _student_lines(layout: Layout | None) -> list[str]:
    return [] if layout is None else [f'Data: {layout.name}.', *layout.notes]


def _lines(settings: DistillSettings, notes: list[str]) -> list[str]:
    name = Path(settings.teacher.rpartition('::')[2]).stem
    first = f'{name} teaches the student; written by mkd-det distill, to be edited.'
    return [first, *(f'- {note}' for note in notes)]


def _teacher_text(settings: DistillSettings, cfg: Config, layout: Layout | None) -> str:
    """Return the config of a teacher that is trained first, on the same data."""
    parts = _teacher_parts(settings, cfg, layout)
    base = _base(settings.teacher, settings.folder)
    return student_text(base, parts, _student_lines(layout), 'The teacher')


def _teacher_parts(
    settings: DistillSettings, cfg: Config, layout: Layout | None
) -> dict[str, Any]:
    """Return what the written config of such a teacher changes, by variable."""
    own = replace(settings, student=settings.teacher, unlabeled=None)
    return _student_parts(own, cfg, layout)
