"""Chooses the recipe for a pair, and says why the others do not fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from ...errors import ConfigError, MkdError, PlanError, nearest_names
from ...heads.base import traits_of
from ...plan.advice.fitting import has_needs, planning_error
from ...plan.advice.pair import Pair
from ...plan.recipes import Recipe, packaged_recipes
from ...taps import Tap

AUTO = 'auto'


@dataclass(frozen=True)
class Choice:
    """The recipe for a pair.

    Args:
        recipe: The recipe.
        fits: Names of all recipes that can be planned for the pair.
        reasons: Why each of the others cannot, by name.
    """

    recipe: Recipe
    fits: tuple[str, ...]
    reasons: dict[str, str]


def choose_recipe(pair: Pair, wanted: str = AUTO) -> Choice:
    """Choose the recipe for a pair: of those that fit, the one with the highest rank.

    Args:
        pair: Student and teacher.
        wanted: Name of a recipe, or 'auto'.

    Raises:
        ConfigError: There is no recipe of that name.
        PlanError: It does not fit the pair, or none does.
    """
    recipes = {recipe.name: recipe for recipe in packaged_recipes()}
    if wanted not in (AUTO, *recipes):
        raise ConfigError(
            f'there is no recipe {wanted!r}',
            actual=wanted,
            available=nearest_names(wanted, recipes, limit=len(recipes)),
            fix='--recipe auto',
        )
    reasons = {name: why_not(recipe, pair) for name, recipe in recipes.items()}
    fits = [recipes[name] for name, reason in reasons.items() if not reason]
    fits.sort(key=lambda recipe: -recipe.rank)
    names = tuple(recipe.name for recipe in fits)
    left_out = {name: reason for name, reason in reasons.items() if reason}
    if not fits:
        raise PlanError(
            'no recipe fits this pair',
            actual='\n'.join(f'{name}: {why}' for name, why in left_out.items()),
            fix='write taps and terms yourself; mkd-det inspect lists the modules'
            ' of a model with their shapes',
        )
    if wanted != AUTO and wanted not in names:
        raise PlanError(
            f'recipe {wanted} does not fit this pair',
            actual=left_out[wanted],
            available=names,
            fix=f'--recipe {names[0]}',
        )
    chosen = fits[0] if wanted == AUTO else recipes[wanted]
    return Choice(chosen, names, left_out)


def why_not(recipe: Recipe, pair: Pair) -> str:
    """Return why a recipe does not fit a pair, in one line; '' if it does.

    Args:
        recipe: The recipe.
        pair: Student and teacher.
    """
    if not has_needs(recipe.needs, pair.student, pair.teacher):
        return _missing(recipe, pair.student, pair.teacher)
    # Small images show nearly always that a recipe fits, in a quarter of the time.
    small = replace(pair, size=(pair.size[0] // 2, pair.size[1] // 2))
    error = planning_error(recipe, small) and planning_error(recipe, pair)
    if error is None:
        return ''
    text = error.message if isinstance(error, MkdError) else str(error)
    return text.splitlines()[0] if text else type(error).__name__


def _missing(recipe: Recipe, student: nn.Module, teacher: nn.Module) -> str:
    """Return the first thing that a pair lacks."""
    needs = recipe.needs
    sides = ('student', student, needs.student), ('teacher', teacher, needs.teacher)
    for side, model, paths in sides:
        for path in paths:
            try:
                Tap((path,)).resolve(model)
            except MkdError:
                return f'the {side} has no {path}'
    for path, traits in needs.heads.items():
        for side, model, _ in sides:
            head = dict(model.named_modules()).get(path)
            lacking = sorted(set(traits) - traits_of(head))
            if lacking:
                return f'{path} of the {side} is not {", ".join(lacking)}'
    return 'something that it needs is missing'
