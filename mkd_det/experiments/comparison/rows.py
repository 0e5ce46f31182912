"""What is compared: rows, each a complete config, made from a config or a recipe."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...configs import add_custom_imports, custom_imports_of, load_config, read_config
from ...errors import ConfigError, check_string_keys, is_integer, nearest_names, prefix_errors
from ...registry import type_name
from ...training.runtime import DEFAULT_HOOKS, is_distill
from ..runs.training import count_in_iterations, evaluators_of, steps_of

# Of what counts epochs or iterations, in schedulers of the rate and of terms.
_PLACES = ('begin', 'end', 'T_max', 'step_size', 'total_steps', 'milestones', 'periods')
_EPOCHS, _ITERATIONS = ('stop_epoch',), ('warmup_iters', 'decay_iters')
# Of hooks: a switch of pipelines, the start of averages.
_HOOKS = ('switch_epoch', 'num_last_epochs', 'begin_epoch')
_WARM_UPS = ('LinearLR', 'ConstantLR')
# mmengine's word for a scheduler without end.
_FOREVER = 10**8
# Learning curves have at least so many points.
POINTS = 4


@dataclass(frozen=True)
class Row:
    """One way to train the student.

    Args:
        name: What people read.
        source: The file that it was made from.
        cfg: Its training, complete.
    """

    name: str
    source: str
    cfg: Config

    @property
    def stem(self) -> str:
        """Of its files and folders."""
        return stem_of(self.name)


def stem_of(name: str) -> str:
    """A row's name, as files may be called."""
    return re.sub(r'[^\w.-]+', '_', name)


@dataclass(frozen=True)
class Common:
    """What holds for all rows.

    Args:
        teachers: Checkpoints, by a teacher's name.
        teacher_cfgs: Configs, by a teacher's name, for recipes.
        options: Settings of configs.
        epochs: The budget; None for what the configs say.
        iters: The same for trainings that are counted in iterations.
    """

    teachers: Mapping[str, str] = field(default_factory=dict)
    teacher_cfgs: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    iters: int | None = None


def read_rows(base: str, others: Sequence[str], common: Common) -> list[Row]:
    """Read all rows, the base first.

    Args:
        base: `path` or `name=path` of the student alone.
        others: The same of configs and recipes.
        common: What holds for all.

    Raises:
        ConfigError: One is not there, is neither, or has another's name; or the
            budget or the teachers do not suit them.
    """
    named = [split_name(text) for text in (base, *others)]
    for place, (name, path) in enumerate(named):
        known = [other for other, _ in named[:place]]
        if stem_of(name) in map(stem_of, known):
            raise ConfigError(
                f'two rows are called {name!r}',
                actual=path,
                available=known,
                fix=f'another_name={path}',
            )
    alone = _read(named[0][1], common)
    with prefix_errors(named[0][0]):
        if 'model' not in alone or is_distill(alone):
            raise ConfigError(
                '--base is not the student alone',
                expected='a plain config, with the model that all rows train',
                actual='a config of type Distiller' if 'model' in alone else 'a recipe',
                fix='--base with the student that it begins from: its _base_',
            )
    rows = []
    for name, path in named:
        with prefix_errors(name):
            cfg = _read(path, common)
            if 'model' not in cfg:
                cfg = combine(alone, cfg, common)
            rows.append(Row(name, path, _complete(cfg, common)))
    _check_teachers(rows, common.teachers)
    return rows


def split_name(text: str) -> tuple[str, str]:
    """Name and path, of `name=path` or a path alone."""
    name, sign, path = text.partition('=')
    if sign and not Path(text).is_file():
        if not name.strip() or not path.strip():
            raise ConfigError(
                'a row needs a name and a file', expected='name=path', actual=text
            )
        return name.strip(), path.strip()
    return Path(text.rpartition('::')[2]).stem, text


def _read(path: str, common: Common) -> Config:
    """A config, with the options; or a recipe, without."""
    cfg = read_config(path)
    if 'model' in cfg:
        cfg = load_config(path, dict(common.options))
        found = Config(cfg.to_dict())
        found.pop('recipe', None)
        return found
    if not isinstance(cfg.get('recipe'), Mapping):
        raise ConfigError(
            f'{path} is no config and no recipe',
            expected='`model`, or `recipe = dict(taps=..., terms=...)`',
            actual=sorted(cfg) or None,
        )
    return cfg


def combine(base: Config, recipe: Config, common: Common) -> Config:
    """The config in which teachers teach the base's student by a recipe.

    Raises:
        ConfigError: There is no teacher, or no checkpoint of it.
    """
    for what, given in (('cfg', common.teacher_cfgs), ('checkpoint', common.teachers)):
        if not given or set(common.teacher_cfgs) - set(given):
            raise ConfigError(
                f'a recipe needs a teacher, and the {what} of the teacher is missing',
                actual=dict(given) or None,
                fix='--teacher-cfg configs/bccd/gfl_r18-w64_bccd.py'
                ' --teacher checkpoints/gfl_r18-w64_bccd.pth',
            )
    check_string_keys(recipe.recipe, 'recipe')
    taught = deepcopy(recipe.recipe.to_dict())
    more = taught.pop('teachers', {})
    teachers = {
        name: dict(cfg=cfg, checkpoint=common.teachers[name])
        for name, cfg in common.teacher_cfgs.items()
    }
    made = Config(base.to_dict())
    made.model = dict(
        type='Distiller',
        student=made.model,
        teachers={
            name: teachers.get(name, {}) | more.get(name, {})
            for name in {**teachers, **more}
        },
        **taught,
    )
    add_custom_imports(made, 'mkd_det', *custom_imports_of(recipe))
    return made


def _complete(cfg: Config, common: Common) -> Config:
    """The config as it is trained: budget, teachers, and what is measured."""
    for name, checkpoint in common.teachers.items():
        if is_distill(cfg) and name in (cfg.model.get('teachers') or {}):
            cfg.model.teachers[name].checkpoint = checkpoint
    set_budget(cfg, common)
    for evaluator in evaluators_of(cfg):
        if type_name(evaluator.get('type')) == 'CocoMetric':
            evaluator['classwise'] = True
    hooks = dict(cfg.get('default_hooks') or {})
    if not is_distill(cfg):
        # An option for the other rows; mmengine stumbles over a None that it does not
        # know.
        hooks = {
            name: hook for name, hook in hooks.items() if name not in DEFAULT_HOOKS
        }
    often = 1 if steps_of(cfg, 'the training')[1] else cfg.train_cfg.val_interval
    own = hooks.get('checkpoint') or dict(type='CheckpointHook', interval=often)
    # Two: one to go on from, should the other be damaged.
    hooks['checkpoint'] = {'max_keep_ckpts': 2, **own}
    cfg.default_hooks = hooks
    count_in_iterations(cfg)
    cfg.pop('work_dir', None)
    return cfg


def set_budget(cfg: Config, common: Common) -> None:
    """Let a training last so long, with its schedules in proportion.

    What counts in the unit of the budget (epochs, or iterations) is scaled: ends and
    milestones of the learning rate, `stop_epoch` of terms. A warm-up in iterations
    stays as long as it was under a budget in epochs. Validations are so many that a
    learning curve has a few points, unless the options say how many.

    Raises:
        ConfigError: The training is counted in the other unit.
    """
    steps, by_epoch = steps_of(cfg, 'the training')
    wanted, other = common.epochs, common.iters
    if not by_epoch:
        wanted, other = other, wanted
    if other is not None:
        right, wrong = ('epochs', 'iters') if by_epoch else ('iters', 'epochs')
        raise ConfigError(
            f'--{wrong}: this training is counted in {right}',
            actual=f'max_{right}={steps}',
            fix=f'--{right}',
        )
    if wanted is not None:
        factor = wanted / steps
        cfg.train_cfg['max_epochs' if by_epoch else 'max_iters'] = wanted
        if 'val_begin' in cfg.train_cfg:
            _scale(cfg.train_cfg, ('val_begin',), factor)
        for part in schedulers_of(cfg):
            if part.get('by_epoch', True) == by_epoch:
                whole = part.get('T_max') == part.get('end', 0) - part.get('begin', 0)
                _scale(part, _PLACES, factor)
                if whole:
                    part['T_max'] = part['end'] - part.get('begin', 0)
        for hook in cfg.get('custom_hooks') or ():
            if by_epoch:
                _scale(hook, _HOOKS, factor)
        for term in (cfg.model.get('terms') or {}).values():
            if isinstance(term, Mapping) and term.get('schedule'):
                _scale(term['schedule'], _EPOCHS if by_epoch else _ITERATIONS, factor)
        steps = wanted
    if 'train_cfg.val_interval' not in common.options:
        often = max(steps // POINTS, 1)
        own = cfg.train_cfg.get('val_interval', 1 if by_epoch else 1000)
        cfg.train_cfg.val_interval = min(own, often)


def schedulers_of(cfg: Config) -> list[Any]:
    """The schedulers of the learning rate, as they stand in the config."""
    found = cfg.get('param_scheduler') or []
    return [found] if isinstance(found, Mapping) else list(found)


def _scale(part: Any, keys: Sequence[str], factor: float) -> None:
    """Scale numbers of epochs or iterations; what lasts lasts at least one."""
    for key in keys:
        value = part.get(key)
        if is_integer(value) and 0 < value < _FOREVER:
            part[key] = max(_rounded(value * factor), 0 if key == 'begin' else 1)
        elif isinstance(value, (list, tuple)):
            part[key] = [max(_rounded(v * factor), 1) for v in value]
    if is_integer(part.get('end')) and part['end'] <= part.get('begin', 0):
        part['begin'] = part['end'] - 1
    if part.get('type') in _WARM_UPS and not part.get('convert_to_iter_based'):
        # mmengine never takes back a warm-up of one step.
        least = part.get('begin', 0) + 2
        part['end'] = max(part.get('end', _FOREVER), least)


def _rounded(value: float) -> int:
    return math.floor(value + 0.5)


def _check_teachers(rows: Sequence[Row], given: Mapping[str, str]) -> None:
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
