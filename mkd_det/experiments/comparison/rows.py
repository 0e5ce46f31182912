"""Rows of a comparison: complete configs, made from configs and recipes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from ...config_files.reading import (
    add_custom_imports,
    custom_imports_of,
    load_config,
    read_config,
)
from ...errors import ConfigError, nearest_names, prefix_errors
from ...plan.recipes import apply_recipe
from ...preflight.metric_names import metric_cfgs
from ...registry import type_name
from ...training.runtime import DEFAULT_HOOKS, is_distill
from ..runs.metrics import evaluators_of
from ..runs.training_configs import (
    KEPT_CHECKPOINTS,
    adapt_hooks_to_iterations,
    training_budget,
)
from .budget import set_budget
from .options import ComparisonOptions
from .suggestions import suggest_teacher


@dataclass(frozen=True)
class ComparisonRow:
    """One way to train the student.

    Args:
        name: Name shown to people.
        source: The file that it was made from.
        cfg: Complete config of its training.
    """

    name: str
    source: str
    cfg: Config

    @property
    def stem(self) -> str:
        """Stem of the names of its files and folders."""
        return file_stem(self.name)


def file_stem(name: str) -> str:
    """Return a row's name with the signs that a file name may have."""
    return re.sub(r'[^\w.-]+', '_', name)


def read_rows(
    base: str, others: Sequence[str], options: ComparisonOptions
) -> list[ComparisonRow]:
    """Read all rows, the base first.

    Args:
        base: `path` or `name=path` of the config of the student alone.
        others: `path` or `name=path` of configs and recipes.
        options: Settings of the comparison.

    Raises:
        ConfigError: A file is missing, or is neither a config nor a recipe; two rows
            have the same name; budget or teachers do not fit.
    """
    named = [split_name(text) for text in (base, *others)]
    for index, (name, path) in enumerate(named):
        known = [other for other, _ in named[:index]]
        if file_stem(name) in map(file_stem, known):
            raise ConfigError(
                f'two rows are called {name!r}',
                actual=path,
                available=known,
                fix=f'another_name={path}',
            )
    student = _read(named[0][1], options)
    with prefix_errors(named[0][0]):
        _check_base(student)
    rows = []
    for name, path in named:
        with prefix_errors(name):
            cfg = _read(path, options)
            if 'model' not in cfg:
                cfg = _config_from_recipe(student, cfg, options, named[0][1])
            rows.append(ComparisonRow(name, path, _complete(cfg, options)))
    _check_teachers(rows, options.teachers)
    return rows


def split_name(text: str) -> tuple[str, str]:
    """Return name and path of `name=path`, or of a path alone."""
    name, sign, path = text.partition('=')
    if sign and not Path(text).is_file():
        if not name.strip() or not path.strip():
            raise ConfigError(
                'a row needs a name and a file', expected='name=path', actual=text
            )
        return name.strip(), path.strip()
    return Path(text.rpartition('::')[2]).stem, text


def _read(path: str, options: ComparisonOptions) -> Config:
    """Read a config with the overrides, or a recipe without them."""
    cfg = read_config(path)
    if 'model' in cfg:
        cfg = load_config(path, dict(options.options))
        found = Config(cfg.to_dict())
        found.pop('recipe', None)
        return found
    if not isinstance(cfg.get('recipe'), Mapping):
        raise ConfigError(
            f'{path} is neither a config nor a recipe',
            expected='`model`, or `recipe = dict(taps=..., terms=...)`',
            actual=sorted(cfg) or None,
        )
    return cfg


def _check_base(student: Config) -> None:
    if 'model' not in student or is_distill(student):
        raise ConfigError(
            '--base is not the student alone',
            expected='a plain config, with the model that all rows train',
            actual='a config of type Distiller' if 'model' in student else 'a recipe',
            fix='--base with the plain config of the student',
        )


def _config_from_recipe(
    student: Config, recipe: Config, options: ComparisonOptions, base: str
) -> Config:
    """Return the config in which teachers teach the student by a recipe.

    Args:
        student: Config of the student alone.
        recipe: The recipe.
        options: Settings of the comparison.
        base: Path of the student's config, for messages.

    Raises:
        ConfigError: There is no teacher, or no checkpoint of it.
    """
    cfgs, checkpoints = options.teacher_cfgs, options.teachers
    for what, given in (('cfg', cfgs), ('checkpoint', checkpoints)):
        if not given or set(cfgs) - set(given):
            fix, configs = suggest_teacher(cfgs, checkpoints, base)
            raise ConfigError(
                f'a recipe needs a teacher, and the {what} of the teacher is missing',
                actual=dict(given) or None,
                available=configs[:8],
                fix=fix,
            )
    cfg = Config(student.to_dict())
    teachers = {
        name: dict(cfg=teacher, checkpoint=checkpoints[name])
        for name, teacher in cfgs.items()
    }
    cfg.model = apply_recipe(cfg.model, teachers, recipe.recipe.to_dict())
    add_custom_imports(cfg, 'mkd_det', *custom_imports_of(recipe))
    return cfg


def _complete(cfg: Config, options: ComparisonOptions) -> Config:
    """Return the config as it is trained: with budget, teachers and evaluators."""
    for name, checkpoint in options.teachers.items():
        if is_distill(cfg) and name in (cfg.model.get('teachers') or {}):
            cfg.model.teachers[name].checkpoint = checkpoint
    set_budget(cfg, options)
    tested = metric_cfgs(cfg.get('test_evaluator')) if options.test else []
    for evaluator in [*evaluators_of(cfg), *(metric for _, metric in tested)]:
        if type_name(evaluator.get('type')) == 'CocoMetric':
            evaluator['classwise'] = True
    hooks = dict(cfg.get('default_hooks') or {})
    if not is_distill(cfg):
        # The options may switch off hooks that only the other rows have; mmengine
        # accepts None only for its own hooks.
        hooks = {
            name: hook for name, hook in hooks.items() if name not in DEFAULT_HOOKS
        }
    by_epoch = training_budget(cfg, 'the training')[1]
    interval = 1 if by_epoch else cfg.train_cfg.val_interval
    own = hooks.get('checkpoint') or dict(type='CheckpointHook', interval=interval)
    hooks['checkpoint'] = {'max_keep_ckpts': KEPT_CHECKPOINTS, **own}
    cfg.default_hooks = hooks
    adapt_hooks_to_iterations(cfg)
    cfg.pop('work_dir', None)
    return cfg


def _check_teachers(rows: Sequence[ComparisonRow], given: Mapping[str, str]) -> None:
    known: list[str] = []
    for row in rows:
        if is_distill(row.cfg):
            known += row.cfg.model.get('teachers') or {}
    for name in given:
        if name not in known:
            raise ConfigError(
                f'--teacher: no row has a teacher called {name!r}',
                available=nearest_names(name, known),
            )
