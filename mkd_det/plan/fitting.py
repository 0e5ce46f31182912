"""Find the recipes that fit a pair, for errors about one that does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import nn

from ..config import DistillConfig
from ..errors import (
    ConfigError,
    MkdError,
    PlanError,
    ShapeMismatchError,
    TapNotFoundError,
    TapOutputError,
    TapSilentError,
)
from ..heads.base import traits_of
from ..taps import Tap
from .plan import HasModel
from .recipes import TEACHER, Needs, Recipe, packaged_recipes

# Errors after which another recipe may help. Shapes are a matter of widths: those of
# a pair are the same in every recipe.
HELPED = (TapNotFoundError, TapSilentError, TapOutputError, PlanError)


def suggest_recipes(
    error: MkdError,
    student: BaseModel,
    teachers: Mapping[str, HasModel],
    config: DistillConfig,
) -> None:
    """Add the names of the recipes that fit the pair to the advice of an error.

    Args:
        error: The error that the plan of the pair ended with.
        student: The student, without branches.
        teachers: The teachers by name; the first one counts.
        config: The config that was planned.
    """
    helped = isinstance(error, HELPED) and not isinstance(error, ShapeMismatchError)
    if not helped or not teachers:
        return
    teacher = next(iter(teachers.values()))
    names = recipes_for(student, teacher.model, config.probe_shape)
    if names:
        line = f'recipes that fit the pair: {", ".join(names)}'
        error.fix = f'{error.fix}\n{line}' if error.fix else line


def recipes_for(
    student: BaseModel, teacher: nn.Module, size: tuple[int, int] = (256, 256)
) -> list[str]:
    """Return the names of the packaged recipes that can be planned as they are.

    Args:
        student: The student. It is left as it is.
        teacher: The teacher.
        size: (H, W) of the image that the models are run on, in pixels.
    """
    return [
        recipe.name
        for recipe in packaged_recipes()
        if has_needs(recipe.needs, student, teacher)
        and can_be_planned(recipe, student, teacher, size)
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
    recipe: Recipe, student: BaseModel, teacher: nn.Module, size: tuple[int, int]
) -> bool:
    """Return whether a recipe can be planned for a pair, by planning it.

    Args:
        recipe: The recipe.
        student: The student. It is left as it is.
        teacher: The teacher.
        size: (H, W) of the image that the models are run on, in pixels.
    """
    from .planner import Planner  # which imports this file

    given: dict[str, Any] = {**recipe.arguments, 'probe_size': size}
    own = given.get('teachers') or {}
    given['teachers'] = {TEACHER: dict(cfg=TEACHER, checkpoint=None), **own}
    try:
        config = DistillConfig.parse(given)
    except ConfigError:
        return False
    models = {name: _Teacher(teacher) for name in config.teachers}
    planner = Planner(student, models, config)
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
