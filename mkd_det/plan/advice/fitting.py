"""Find the recipes that fit a pair, for errors about one that does not."""

from __future__ import annotations

from collections.abc import Mapping

from mmdet.models import SemiBaseDetector
from mmengine.model import BaseModel
from torch import nn

from ...config import DistillConfig
from ...errors import (
    ConfigError,
    MkdError,
    PlanError,
    ProbeError,
    TapNotFoundError,
    TapOutputError,
    TapSilentError,
    TeacherClassesError,
)
from ...heads.base import traits_of
from ...taps import Tap
from ..plan import HasModel, Plan
from ..recipes import TEACHER, Needs, Recipe, packaged_recipes
from .pair import Pair
from .taps import containers_that_work, plan_config, taps_that_work

# Errors after which another recipe may help.
HELPED = (
    TapNotFoundError,
    TapSilentError,
    TapOutputError,
    PlanError,
    TeacherClassesError,
)


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
    helped = isinstance(error, HELPED) and not isinstance(error, ProbeError)
    helped |= isinstance(error, ConfigError) and ran
    # Recipes are planned with teachers that run; stored ones have heads only.
    stored = any(given.stored is not None for given in config.teachers.values())
    if not helped or not teachers or stored:
        return
    teacher = next(iter(teachers.values()))
    of_list = isinstance(error, TapSilentError) and error.fix.endswith(".*'")
    # The children of a list are no help where an adapter wants one of them.
    if of_list and not containers_that_work(student, teachers, config):
        error.fix = ''
    lines = [_detector_inside(teachers), taps_that_work(student, teachers, config)]
    names = recipes_for(_pair(student, teacher.model, config))
    if names:
        lines.append(f'recipes that fit the pair: {", ".join(names)}')
    error.fix = '\n'.join(line for line in (error.fix, *lines) if line)


def _detector_inside(teachers: Mapping[str, HasModel]) -> str:
    """Return how to take the detector of a semi-supervised teacher; '' for others."""
    for name, teacher in teachers.items():
        if isinstance(teacher.model, SemiBaseDetector):
            kind = type(teacher.model).__name__
            return (
                f'teachers=dict({name}=dict(cfg=<the `detector` of {kind}>,'
                " checkpoint=..., prefix='teacher.')), the detector that it holds"
            )
    return ''


def _pair(student: BaseModel, teacher: nn.Module, config: DistillConfig) -> Pair:
    """Return the pair of a config; its first teacher counts."""
    given = next(iter(config.teachers.values()))
    return Pair(
        student,
        teacher,
        config.probe_shape,
        config.probe,
        given.class_map,
        config.classes,
        given.classes,
    )


def recipes_for(pair: Pair) -> list[str]:
    """Return the names of the packaged recipes that can be planned as they are.

    Args:
        pair: Student and teacher.
    """
    return [
        recipe.name
        for recipe in packaged_recipes()
        if has_needs(recipe.needs, pair.student, pair.teacher)
        and planning_error(recipe, pair) is None
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


def planning_error(recipe: Recipe, pair: Pair) -> Exception | None:
    """Return the error that planning a recipe for a pair ends with, or None.

    Args:
        recipe: The recipe.
        pair: Student and teacher.
    """
    try:
        plan_recipe(recipe, pair)
    except Exception as error:  # of a model that a recipe cannot run, any
        return error
    return None


def plan_recipe(recipe: Recipe, pair: Pair) -> Plan:
    """Return the plan of a recipe for a pair; its branches are detached again.

    Args:
        recipe: The recipe.
        pair: Student and teacher.

    Raises:
        MkdError: The recipe does not fit the pair.
    """
    config = DistillConfig.parse(pair.add_to(recipe.arguments, TEACHER))
    models = {name: _Teacher(pair.teacher) for name in config.teachers}
    return plan_config(pair.student, models, config)


class _Teacher:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
