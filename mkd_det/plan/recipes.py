"""Recipes: read them, and make the arguments of a `Distiller` from them.

A recipe says how one teacher called `t` teaches: taps, adapters, branches and terms.
The recipes of this package are the files under `configs/_base_/recipes`. Each has the
variables `recipe` (arguments of `Distiller`), `needs` and, if `mkd-det distill` may
choose it by itself, `rank` (see `Needs` and `Recipe`). Each term has
the `share` that carries over to other data, and the weight that gave it on BCCD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config_files.reading import read_config
from ..errors import ConfigError, check_keys, check_string_keys, is_integer, is_number
from ..packaged import configs_folder
from ..parsing import parse
from ..registry import ADAPTERS, LOSSES, arguments_with_defaults, find_class

# The name of the teacher in a recipe.
TEACHER = 't'
# Parts of a recipe that are there once for each teacher, if there are several.
_REPEATED = ('teachers', 'adapters', 'terms')
# What a recipe that is repeated for several teachers may hold.
_KEYS = (*_REPEATED, 'taps', 'branches', 'probe_size', 'teacher_weights', 'balance')
_WEIGHTED = {'adapters': ADAPTERS, 'terms': LOSSES}


@dataclass(frozen=True)
class Needs:
    """What a recipe needs of a pair, so that it can be planned.

    Args:
        student: Paths of the modules that the student must have.
        teacher: Paths of the modules that the teacher must have.
        heads: What heads of both must be, by path: traits of the reader of their kind
            (`HeadReader.traits`), such as 'dense', 'sigmoid', 'distributions'.
    """

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A recipe, read from its file.

    Args:
        name: Stem of the file.
        arguments: Arguments of `Distiller`, with a teacher called `t`.
        needs: What it needs of a pair.
        rank: Of several that fit a pair, `mkd-det distill` takes the highest.
    """

    name: str
    arguments: Mapping[str, Any]
    needs: Needs
    rank: int = 0


def read_recipe(path: str) -> Recipe:
    """Read a recipe from a file, or a packaged one (`mkd_det::_base_/recipes/x.py`).

    Args:
        path: The file.

    Raises:
        ConfigError: There is no such file, it holds no recipe, or its `needs` are not
            valid.
    """
    cfg = read_config(path)
    if not isinstance(cfg.get('recipe'), Mapping):
        raise ConfigError(
            f'{path} is no recipe',
            expected='recipe = dict(taps=..., terms=...)',
            actual=sorted(cfg) or None,
        )
    needs = cfg.needs.to_dict() if isinstance(cfg.get('needs'), Mapping) else {}
    rank = cfg.get('rank', 0)
    if not is_integer(rank):
        raise ConfigError(f'{path}: rank must be a whole number', actual=repr(rank))
    return Recipe(
        Path(path).stem,
        cfg.recipe.to_dict(),
        parse(Needs, needs, f'{path}: needs'),
        rank,
    )


def packaged_recipes() -> list[Recipe]:
    """Return the recipes of this package, in the order of their names."""
    files = (configs_folder() / '_base_' / 'recipes').glob('*.py')
    return [read_recipe(str(file)) for file in sorted(files)]


def apply_recipe(
    student: Mapping[str, Any],
    teachers: Mapping[str, Mapping[str, Any]],
    recipe: Mapping[str, Any],
    **settings: Any,
) -> dict[str, Any]:
    """Make the model config in which teachers teach a student by a recipe.

    Args:
        student: Model config of the student.
        teachers: By name, `dict(cfg, checkpoint, ...)`. What the recipe says of a
            teacher (its own taps, a pruned copy) comes over it.
        recipe: Arguments of `Distiller` but for the student; see `repeat_recipe` for
            several teachers that teach alike.
        **settings: More arguments of `Distiller`; they come over the recipe's.

    Returns:
        `dict(type='Distiller', ...)`.

    Raises:
        ConfigError: The recipe or the teachers are no dict by names, or the recipe
            names a student of its own.
    """
    check_string_keys(recipe, 'recipe')
    check_string_keys(teachers, 'teachers')
    rest = deepcopy(dict(recipe))
    for key in ('student', 'type'):
        if key in rest:
            raise ConfigError(
                f'recipe: {key!r} is no part of a recipe',
                expected='taps, adapters, branches, terms',
                actual=sorted(rest),
            )
    own = rest.pop('teachers', None) or {}
    check_string_keys(own, 'recipe.teachers')
    named = {
        name: {**(teachers.get(name) or {}), **(own.get(name) or {})}
        for name in {**teachers, **own}
    }
    return dict(
        type='Distiller', student=student, teachers=named, **{**rest, **settings}
    )


def repeat_recipe(
    recipe: Mapping[str, Any],
    teachers: Sequence[str],
    factor: float = 1.0,
    where: str = 'recipe',
) -> dict[str, Any]:
    """Repeat what a recipe says of one teacher `t` for several teachers.

    Terms and adapters that read `t`, and pruned copies of it, are there once for each
    teacher, under the name `<name>_<teacher>`. Taps and branches are the student's and
    stay as they are.

    Args:
        recipe: Arguments of `Distiller`, with a teacher called `t`. Its own
            `teachers` may be pruned copies of `t` only.
        teachers: Names of the teachers.
        factor: Factor on the weights and shares of terms, and on the weights of
            adapters' own losses.
        where: Name of the recipe, for messages.

    Returns:
        A recipe for these teachers.

    Raises:
        ConfigError: No term reads a teacher `t`, or a part of the recipe cannot be
            repeated.
    """
    _check_repeatable(recipe, where)
    repeated = deepcopy(dict(recipe))
    parts = {key: dict(repeated.pop(key, None) or {}) for key in _REPEATED}
    owners = {TEACHER, *parts['teachers']}
    each = {'teachers': set(parts['teachers'])}
    for kind in ('adapters', 'terms'):
        each[kind] = {n for n, cfg in parts[kind].items() if owners & _owners(cfg)}
        owners |= each[kind]
    if not each['terms']:
        raise ConfigError(
            f'{where}: no term reads a teacher `t`',
            expected="terms=dict(loss_soft=dict(..., teacher='t.head'))",
            actual=sorted(parts['terms']) or None,
            fix="_base_ = ['mkd_det::_base_/recipes/mkd_dense.py']",
        )
    for kind, cfgs in parts.items():
        new = {name: cfg for name, cfg in cfgs.items() if name not in each[kind]}
        for teacher in teachers:
            names = {name: f'{name}_{teacher}' for name in owners} | {TEACHER: teacher}
            for name in (n for n in cfgs if n in each[kind]):
                if names[name] in new:
                    raise ConfigError(
                        f'{where}.{kind}: {names[name]} would also be the name of'
                        f' {name} for the teacher {teacher}',
                        fix='another name for one of them',
                    )
                cfg = _renamed(cfgs[name], names)
                if kind in _WEIGHTED:
                    _scale_weight(kind, name, cfg, factor, where)
                new[names[name]] = cfg
        if new:
            repeated[kind] = new
    return repeated


def _check_repeatable(recipe: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError for what cannot be repeated for several teachers."""
    check_keys(recipe, _KEYS, where)
    for kind in _REPEATED:
        check_string_keys(recipe.get(kind), f'{where}.{kind}')
        for name, cfg in (recipe.get(kind) or {}).items():
            if not isinstance(cfg, Mapping):
                raise ConfigError(
                    f'{where}.{kind}.{name} must be a dict',
                    actual=repr(cfg),
                    fix="dict(type='...')",
                )
    for name, cfg in (recipe.get('teachers') or {}).items():
        if cfg.get('prune_of') != TEACHER:
            raise ConfigError(
                f'{where}.teachers.{name} is no pruned copy of `t`',
                expected="dict(prune_of='t', prune=0.5)",
                actual=cfg,
                fix='no `teachers` in the recipe: who teaches is said elsewhere',
            )
    balance = recipe.get('balance')
    shares = balance.get('shares') if isinstance(balance, Mapping) else None
    if isinstance(shares, Mapping):
        raise ConfigError(
            f'{where}.balance: each term is there once for each teacher',
            expected='one share for all',
            actual=shares,
            fix='shares=0.5',
        )


def _owners(cfg: Mapping[str, Any]) -> set[str]:
    """Names before the dot of what an adapter or term reads."""
    words = [value for value in cfg.values() if isinstance(value, str)]
    return {word.partition('.')[0] for word in words if '.' in word}


def _renamed(cfg: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the config of a part with the owners in `names` by their new names."""
    renamed = dict(cfg)
    for key, value in cfg.items():
        owner, dot, tap = value.partition('.') if isinstance(value, str) else ('',) * 3
        if owner in names and (dot or key == 'prune_of'):
            renamed[key] = names[owner] + dot + tap
    return renamed


def _scale_weight(
    kind: str, name: str, cfg: dict[str, Any], factor: float, where: str
) -> None:
    """Multiply the weight of a term or adapter by `factor`, in place."""
    cls = find_class(_WEIGHTED[kind], cfg, name)
    arguments = arguments_with_defaults(cls, cfg)
    if 'weight' in arguments:
        if not is_number(arguments['weight']):
            raise ConfigError(
                f'{where}.{kind}.{name}: its weight must be a number',
                actual=repr(arguments['weight']),
            )
        cfg['weight'] = factor * arguments['weight']
        if is_number(cfg.get('share')):
            cfg['share'] = factor * cfg['share']
    elif kind == 'terms':  # adapters may have no loss of their own
        raise ConfigError(
            f'{where}.terms.{name}: {cls.__name__} takes no weight',
            fix='def __init__(self, ..., **base): super().__init__(**base)',
        )
