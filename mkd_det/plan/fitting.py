"""Find the recipes that fit a pair, for errors about one that does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import nn

from ..config import DistillConfig, ProbeConfig
from ..errors import (
    ConfigError,
    MkdError,
    PlanError,
    ProbeError,
    ShapeMismatchError,
    TapNotFoundError,
    TapOutputError,
    TapSilentError,
    TeacherClassesError,
)
from ..heads.base import traits_of
from ..taps import Tap
from .plan import HasModel
from .recipes import TEACHER, Needs, Recipe, packaged_recipes
from .refs import adapter_class

# Errors after which another recipe may help. Shapes are a matter of widths: those of
# a pair are the same in every recipe.
HELPED = (
    TapNotFoundError,
    TapSilentError,
    TapOutputError,
    PlanError,
    TeacherClassesError,
)
NOT_HELPED = (ShapeMismatchError, ProbeError)


def suggest_recipes(
    error: MkdError,
    student: BaseModel,
    teachers: Mapping[str, HasModel],
    config: DistillConfig,
    ran: bool = True,
) -> None:
    """Add to the advice of an error what works for the pair.

    That is: taps with which the adapters of this config can be planned, and the names
    of the recipes that can. All are planned before they are named.

    Args:
        error: The error that the plan of the pair ended with.
        student: The student, without branches.
        teachers: The teachers by name; the first one counts.
        config: The config that was planned.
        ran: Whether the models were run: a config error before is a slip of the pen,
            after it a matter of the pair.
    """
    helped = isinstance(error, HELPED) and not isinstance(error, NOT_HELPED)
    helped |= isinstance(error, ConfigError) and ran
    if not helped or not teachers:
        return
    teacher = next(iter(teachers.values()))
    if isinstance(error, TapSilentError) and error.fix.endswith(".*'"):
        # The children of a list are no help where an adapter wants one of them.
        if not containers_that_work(student, teachers, config):
            error.fix = ''
    lines = [taps_that_work(student, teachers, config)]
    names = recipes_for(student, teacher.model, config.probe_shape, config.probe)
    if names:
        lines.append(f'recipes that fit the pair: {", ".join(names)}')
    error.fix = '\n'.join(line for line in (error.fix, *lines) if line)


def taps_that_work(
    student: BaseModel, teachers: Mapping[str, HasModel], config: DistillConfig
) -> str:
    """Return taps with which the config can be planned.

    Those that adapters know to be better are tried first, then the whole backbone or
    neck in place of layers that a model does not have.

    Args:
        student: The student. It is left as it is.
        teachers: The teachers by name.
        config: The config that cannot be planned.

    Returns:
        What to write; empty if nothing better is known, or it does not work either.
    """
    models = {'student': student, **{n: t.model for n, t in teachers.items()}}
    for better in (_of_adapters(models, config), _of_parts(models, config)):
        if better != config and _can_be_planned(student, teachers, better):
            return _changes(config, better)
    return ''


def containers_that_work(
    student: BaseModel, teachers: Mapping[str, HasModel], config: DistillConfig
) -> bool:
    """Return whether the config can be planned with the children of tapped lists.

    Args:
        student: The student. It is left as it is.
        teachers: The teachers by name.
        config: The config, with taps of lists of modules, which never fire.
    """
    models = {'student': student, **{n: t.model for n, t in teachers.items()}}

    def children(model: nn.Module, paths: list[str]) -> list[str]:
        modules = dict(model.named_modules())
        lists = (nn.ModuleList, nn.ModuleDict)
        return [f'{p}.*' if isinstance(modules.get(p), lists) else p for p in paths]

    better = _with_paths(models, config, children)
    return better != config and _can_be_planned(student, teachers, better)


def _of_adapters(models: Mapping[str, Any], config: DistillConfig) -> DistillConfig:
    """Return the config with the taps that its adapters know to be better."""
    taps, own = dict(config.taps), {n: dict(t.taps) for n, t in config.teachers.items()}
    for name, adapter in config.adapters.items():
        owner, _, key = adapter.teacher.rpartition('.')
        suggest = adapter_class(name, adapter).suggest_taps
        if owner not in models:
            continue
        ours, theirs = suggest(models['student']), suggest(models[owner])
        if not ours or not theirs:
            continue
        taps[adapter.student] = ours
        own[owner].pop(key, None)
        if adapter.student != key or theirs != ours:
            own[owner][key] = theirs
    given = {n: replace(t, taps=own[n]) for n, t in config.teachers.items()}
    return replace(config, taps=taps, teachers=given)


def _of_parts(models: Mapping[str, Any], config: DistillConfig) -> DistillConfig:
    """Return the config with whole parts in place of layers that a model has not."""

    def whole(model: nn.Module, paths: list[str]) -> list[str]:
        parts = {path.partition('.')[0] for path in paths}
        try:
            Tap(tuple(path.partition(':')[0] for path in paths)).resolve(model)
        except TapNotFoundError:
            return list(parts) if parts in ({'backbone'}, {'neck'}) else paths
        return paths

    return _with_paths(models, config, whole)


def _with_paths(
    models: Mapping[str, Any],
    config: DistillConfig,
    change: Callable[[nn.Module, list[str]], list[str]],
) -> DistillConfig:
    """Return the config with the paths of every tap of every model changed."""

    def changed(model: nn.Module, tap: Any) -> Any:
        paths = [tap] if isinstance(tap, str) else list(tap)
        found = change(model, paths)
        if found == paths:
            return tap
        return found[0] if len(found) == 1 else tuple(found)

    teachers = {}
    for name, teacher in config.teachers.items():
        own = dict(teacher.taps)
        for key, tap in {**config.taps, **own}.items():
            better = changed(models[name], tap)
            if better != tap:
                own[key] = better
        teachers[name] = replace(teacher, taps=own)
    taps = {key: changed(models['student'], tap) for key, tap in config.taps.items()}
    return replace(config, taps=taps, teachers=teachers)


def _changes(config: DistillConfig, better: DistillConfig) -> str:
    """Return in words of a config which taps are others."""
    lines = [
        f'taps=dict({key}={_written(value)})'
        for key, value in better.taps.items()
        if value != config.taps.get(key)
    ]
    lines += [
        f'teachers.{owner}.taps=dict({key}={_written(value)})'
        for owner, teacher in better.teachers.items()
        for key, value in teacher.taps.items()
        if value != config.teachers[owner].taps.get(key)
    ]
    return '\n'.join(lines)


def _written(tap: Any) -> str:
    return repr(tap if isinstance(tap, str) else list(tap))


def recipes_for(
    student: BaseModel,
    teacher: nn.Module,
    size: tuple[int, int] = (256, 256),
    probe: ProbeConfig | None = None,
) -> list[str]:
    """Return the names of the packaged recipes that can be planned as they are.

    Args:
        student: The student. It is left as it is.
        teacher: The teacher.
        size: (H, W) of the image that the models are run on, in pixels.
        probe: What the config says of input that is no usual image.
    """
    return [
        recipe.name
        for recipe in packaged_recipes()
        if has_needs(recipe.needs, student, teacher)
        and can_be_planned(recipe, student, teacher, size, probe)
    ]


def has_needs(needs: Needs, student: nn.Module, teacher: nn.Module) -> bool:
    """Return whether two models have what a recipe needs.

    Args:
        needs: The needs.
        student: The student.
        teacher: The teacher.
    """
    for model, paths in ((student, needs.student), (teacher, needs.teacher)):
        try:
            Tap(tuple(paths)).resolve(model)
        except TapNotFoundError:
            return False
    modules = [dict(model.named_modules()) for model in (student, teacher)]
    return all(
        set(traits) <= traits_of(named.get(path))
        for path, traits in needs.heads.items()
        for named in modules
    )


def can_be_planned(
    recipe: Recipe,
    student: BaseModel,
    teacher: nn.Module,
    size: tuple[int, int],
    probe: ProbeConfig | None = None,
) -> bool:
    """Return whether a recipe can be planned for a pair, by planning it.

    Args:
        recipe: The recipe.
        student: The student. It is left as it is.
        teacher: The teacher.
        size: (H, W) of the image that the models are run on, in pixels.
        probe: What the config says of input that is no usual image.
    """
    given: dict[str, Any] = {**recipe.arguments, 'probe_size': size, 'probe': probe}
    own = given.get('teachers') or {}
    given['teachers'] = {TEACHER: dict(cfg=TEACHER, checkpoint=None), **own}
    try:
        config = DistillConfig.parse(given)
    except ConfigError:
        return False
    models = {name: _Teacher(teacher) for name in config.teachers}
    return _can_be_planned(student, models, config)


def _can_be_planned(
    student: BaseModel, teachers: Mapping[str, HasModel], config: DistillConfig
) -> bool:
    from .planner import Planner  # which imports this file

    planner = Planner(student, teachers, config)
    with torch.random.fork_rng(devices=[]):
        try:
            planner.build(suggest=False)
        except Exception:  # of a model that a recipe cannot run, it may be any
            return False
        finally:
            planner.detach_branches()
    return True


class _Teacher:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
