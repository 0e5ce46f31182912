"""Find the recipes that fit a pair, for errors about one that does not."""

from __future__ import annotations

from collections.abc import Mapping
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
)
from ..heads.base import traits_of
from ..taps import Tap
from .plan import HasModel
from .recipes import TEACHER, Needs, Recipe, packaged_recipes
from .refs import adapter_class

# Errors after which another recipe may help. Shapes are a matter of widths: those of
# a pair are the same in every recipe.
HELPED = (TapNotFoundError, TapSilentError, TapOutputError, PlanError)
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
    lines = [taps_that_work(student, teachers, config)]
    names = recipes_for(student, teacher.model, config.probe_shape, config.probe)
    if names:
        lines.append(f'recipes that fit the pair: {", ".join(names)}')
    error.fix = '\n'.join(line for line in (error.fix, *lines) if line)


def taps_that_work(
    student: BaseModel, teachers: Mapping[str, HasModel], config: DistillConfig
) -> str:
    """Return taps with which adapters that know better ones can be planned.

    Args:
        student: The student. It is left as it is.
        teachers: The teachers by name.
        config: The config that cannot be planned.

    Returns:
        What to write; empty if nothing better is known, or it does not work either.
    """
    taps, own = dict(config.taps), {n: dict(t.taps) for n, t in config.teachers.items()}
    for name, adapter in config.adapters.items():
        owner, _, key = adapter.teacher.rpartition('.')
        suggest = adapter_class(name, adapter).suggest_taps
        if owner not in teachers:
            continue
        ours, theirs = suggest(student), suggest(teachers[owner].model)
        if not ours or not theirs:
            continue
        taps[adapter.student] = ours
        own[owner].pop(key, None)
        if adapter.student != key or theirs != ours:
            own[owner][key] = theirs
    given = {n: replace(t, taps=own[n]) for n, t in config.teachers.items()}
    better = replace(config, taps=taps, teachers=given)
    if better == config or not _can_be_planned(student, teachers, better):
        return ''
    lines = [
        f'taps=dict({key}={list(value)!r})'
        for key, value in taps.items()
        if value != config.taps.get(key)
    ]
    lines += [
        f'teachers.{owner}.taps=dict({key}={list(value)!r})'
        for owner, named in own.items()
        for key, value in named.items()
        if value != config.teachers[owner].taps.get(key)
    ]
    return '\n'.join(lines)


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
    return planning_error(recipe, student, teacher, size, probe) is None


def planning_error(
    recipe: Recipe,
    student: BaseModel,
    teacher: nn.Module,
    size: tuple[int, int],
    probe: ProbeConfig | None = None,
) -> Exception | None:
    """Return the error that planning a recipe for a pair ends with, or None.

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
    except ConfigError as error:
        return error
    models = {name: _Teacher(teacher) for name in config.teachers}
    return _planning_error(student, models, config)


def _can_be_planned(
    student: BaseModel, teachers: Mapping[str, HasModel], config: DistillConfig
) -> bool:
    return _planning_error(student, teachers, config) is None


def _planning_error(
    student: BaseModel, teachers: Mapping[str, HasModel], config: DistillConfig
) -> Exception | None:
    from .planner import Planner  # which imports this file

    planner = Planner(student, teachers, config)
    with torch.random.fork_rng(devices=[]):
        try:
            planner.build(suggest=False)
        except Exception as error:  # of a model that a recipe cannot run, any
            return error
        finally:
            planner.detach_branches()
    return None


class _Teacher:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
