"""Looks at two models and the data, and makes the configs of a distillation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.config import Config
from torch import nn

from ...checkpoints.checkpoint import read_checkpoint
from ...class_maps.class_map import ClassMap
from ...config_files.reading import custom_imports_of, load_config
from ...data.datasets import dataset_classes
from ...data.formats.annotations import list_names
from ...data.layouts import Layout, find_layout
from ...errors import ConfigError, PathError, rename_in_errors
from ...plan.advice.pair import Pair
from ...preflight.checks import check_count
from ...teachers.loading import Teacher
from ...training.class_names import data_names, teacher_names
from ...training.runtime import build_model, is_distill
from .choice import AUTO, Choice, choose_recipe
from .class_part import with_class_map
from .config_text import distill_text, options_text, recipe_text
from .model_part import common_divisor
from .plain_configs import (
    Batches,
    plain_texts,
    student_parts,
    teacher_parts,
    with_divisor,
)
from .settings import (
    CALIBRATED,
    OPTIONS_CONFIG,
    DistillSettings,
    absolute,
    check_settings,
    located,
)
from .trial import Found, try_configs, wanted_batches


@dataclass(frozen=True)
class PreparedDistillation:
    """The configs of a distillation, before they are written.

    Args:
        texts: Text of each config, by file name.
        choice: The recipe, and why the others do not fit.
        notes: What was decided, a sentence each.
        warnings: What a person should know, a sentence each.
        sizes: Parameters of student and teacher.
        rows: What is compared with what, see `plan_rows`.
        layout: The dataset of the user, if one was given.
        class_map: Which classes of the teacher are which of the student, if they
            differ.
    """

    texts: dict[str, str]
    choice: Choice
    notes: list[str]
    warnings: list[str]
    sizes: dict[str, int]
    rows: list[tuple[str, str]]
    layout: Layout | None = None
    class_map: ClassMap | None = None

    def write(self, folder: Path) -> list[Path]:
        """Write the configs, and annotations that were converted.

        Args:
            folder: Where to: `DistillSettings.folder`.

        Raises:
            PathError: A config there was edited, or is of other settings.
        """
        files = {folder / name: text for name, text in self.texts.items()}
        names = (CALIBRATED, OPTIONS_CONFIG, 'distill.py')
        trained = next((folder / n for n in names if (folder / n).is_file()), folder)
        for file, text in files.items():
            if file.is_file() and file.read_text(encoding='utf-8') != text:
                raise PathError(
                    'a config was written before, and is not what would be written now',
                    actual=str(file),
                    fix=f'mkd-det train {trained}, to train it as it is;'
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
        MkdError: The models or the data cannot be used together, or there is no room
            for a training step.
    """
    check_settings(settings, resume)
    student, teacher = _read_configs(settings)
    layout = None if settings.data is None else find_layout(settings.data.absolute())
    divisor = common_divisor(student, teacher)
    parts = with_divisor(student_parts(settings, student, layout), divisor)
    model = build_model(_with_parts(student, parts))
    classes = _classes(student, layout, model)
    big = _build_teacher(settings, teacher, layout)
    given = settings.teacher_part
    theirs = None if settings.checkpoint is None else teacher_names(given)
    pair, class_map = with_class_map(
        Pair(model, big), classes, theirs, settings.class_map
    )
    choice = choose_recipe(pair, settings.recipe)
    notes, warnings = _notes(layout, choice, settings.recipe, divisor, class_map), []
    if class_map is not None:
        given['class_map'] = pair.class_map
    sizes = {'student': _parameters(model), 'teacher': _parameters(big)}
    if sizes['student'] >= sizes['teacher']:
        warnings.append(
            f'the student has {sizes["student"]:,} parameters, the teacher'
            f' {sizes["teacher"]:,}: are they swapped?'
        )

    def made(batches: Batches, found: Found) -> PreparedDistillation:
        texts, more = plain_texts(
            settings, (student, teacher), layout, batches, divisor
        )
        kept = [*notes, *more]  # free memory is another one tomorrow
        texts |= _distill_texts(settings, choice, given, kept, student)
        return PreparedDistillation(
            texts,
            choice,
            [*kept, *found.notes],
            [*warnings, *found.warnings],
            sizes,
            found.rows,
            layout,
            class_map,
        )

    return _checked(settings, (student, teacher), made)


def _distill_texts(
    settings: DistillSettings,
    choice: Choice,
    teacher: Mapping[str, Any],
    notes: list[str],
    student: Config,
) -> dict[str, str]:
    """Return the text of the distill config, and of what it needs beside it."""
    texts: dict[str, str] = {}
    parts: dict[str, Any] = {}
    name = choice.recipe.name
    base = f'mkd_det::_base_/recipes/{name}.py'
    if settings.init:
        parts['load_from'] = located(settings.init)
    if imports := custom_imports_of(student):
        base = 'recipe.py'
        arguments = Config(dict(recipe=choice.recipe.arguments)).to_dict()
        texts[base] = recipe_text(name, arguments['recipe'])
        every = list(dict.fromkeys(['mkd_det', *imports]))
        parts['custom_imports'] = dict(imports=every, allow_failed_imports=False)
    lines = _lines(settings, notes)
    texts['distill.py'] = distill_text('student.py', base, teacher, lines, parts)
    if settings.options:
        text = options_text('distill.py', settings.options)
        texts[settings.config.name] = text
    return texts


def _read_configs(settings: DistillSettings) -> tuple[Config, Config]:
    """Return the configs of student and teacher, after their files were read."""
    student, teacher = load_config(settings.student), load_config(settings.teacher)
    if is_distill(student):
        raise ConfigError(
            '--student is a distill config',
            expected='a config that trains the student alone',
            fix=f'mkd-det train {settings.student}',
        )
    if settings.init is not None:
        read_checkpoint(settings.init)  # raises before anything is written
    return student, teacher


def _build_teacher(
    settings: DistillSettings, teacher: Config, layout: Layout | None
) -> nn.Module:
    """Return the teacher; one that is trained first has the classes of the data."""
    if settings.checkpoint is not None:
        return Teacher.build('t', settings.teacher_part).model
    return build_model(_with_parts(teacher, teacher_parts(settings, teacher, layout)))


def _checked(
    settings: DistillSettings,
    bases: tuple[Config, Config],
    made: Callable[[Batches, Found], PreparedDistillation],
) -> PreparedDistillation:
    """Return the configs with batch sizes that fit, after they were tried elsewhere."""
    wanted = wanted_batches(settings, bases)
    draft = made(wanted, Found())
    with TemporaryDirectory(prefix='mkd_distill') as name:
        folder = Path(name).resolve()
        moved = {}
        for file, text in draft.texts.items():
            text = text.replace(str(settings.folder.absolute()), str(folder))
            for config in (settings.student, settings.teacher):
                base = repr(settings.base_of(config))
                text = text.replace(base, repr(absolute(config)))
            moved[file] = text
        replace(draft, texts=moved).write(folder)
        with rename_in_errors(str(folder), str(settings.folder)):
            batches, found = try_configs(settings, bases, wanted, folder)
    return made(batches, found)


def _classes(
    student: Config, layout: Layout | None, model: nn.Module
) -> tuple[str, ...]:
    """Return the classes of the data by label, after they were counted."""
    if layout is not None:
        return layout.classes
    check_count({'train': dataset_classes(student, 'train')}, model)
    return data_names(student)


def _with_parts(cfg: Config, parts: Mapping[str, Any]) -> Config:
    """Return a config with the changed model, to build it."""
    changed = Config(cfg.to_dict())
    changed.merge_from_dict({'model': parts.get('model', {})})
    return changed


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _notes(
    layout: Layout | None,
    choice: Choice,
    asked: str,
    divisor: int | None,
    class_map: ClassMap | None,
) -> list[str]:
    """Return what was decided about data, recipe, images and classes."""
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
    why = 'outputs and features come first, then outputs, then features alone'
    why = why if asked == AUTO else 'as asked for'
    more = f'; {others} fit too' * bool(others)
    notes.append(f'recipe {choice.recipe.name} ({why}{more})')
    if choice.recipe.arguments.get('balance') is not None:
        notes.append(
            'weights are not calibrated: `balance` of the recipe keeps terms at their'
            ' shares'
        )
    if divisor:
        notes.append(f'images are padded to multiples of {divisor}, for the teacher')
    if class_map is not None:
        notes.append(f'the teacher has other classes: {class_map.summary()}')
    return notes


def _lines(settings: DistillSettings, notes: list[str]) -> list[str]:
    name = Path(settings.teacher.rpartition('::')[2]).stem
    first = f'{name} teaches the student; written by mkd-det distill, to be edited.'
    return [first, *(f'- {note}' for note in notes)]
