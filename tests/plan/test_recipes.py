"""Recipes: read from files, applied to a student, repeated for several teachers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from mkd_det import PairLoss
from mkd_det.errors import ConfigError, is_number
from mkd_det.packaged import configs_folder
from mkd_det.plan.recipes import (
    Recipe,
    apply_recipe,
    packaged_recipes,
    read_recipe,
    repeat_recipe,
)

RECIPE: dict[str, Any] = dict(
    taps=dict(logits='head'),
    terms=dict(
        loss_soft=dict(
            type='SoftOutputKD',
            student='logits',
            teacher='t.logits',
            tau=4.0,
            weight=2.0,
        )
    ),
    probe_size=16,
)


# -- reading ---------------------------------------------------------------------


def test_recipes_of_the_package_are_found_by_their_files() -> None:
    names = [recipe.name for recipe in packaged_recipes()]
    assert names == sorted(
        file.stem for file in (configs_folder() / '_base_/recipes').glob('*.py')
    )
    assert {'mkd_dense', 'kd_logits', 'dkd_two_stage'} <= set(names)
    packaged = read_recipe('mkd_det::_base_/recipes/mkd_dense.py')
    assert packaged.needs.heads == {'bbox_head': ('dense', 'sigmoid')}


def test_a_recipe_inherits_needs_with_the_recipe(tmp_path: Path) -> None:
    mine = tmp_path / 'mine.py'
    mine.write_text("_base_ = ['mkd_det::_base_/recipes/cwd_dense.py']\n")
    assert read_recipe(str(mine)).needs.student == ('neck',)


@pytest.mark.parametrize(
    'text',
    ['taps = dict()', 'recipe = [1]', 'recipe = dict()\nneeds = dict(studnt=[])'],
)
def test_what_is_no_recipe_is_told(text: str, tmp_path: Path) -> None:
    file = tmp_path / 'mine.py'
    file.write_text(text)
    with pytest.raises(ConfigError):
        read_recipe(str(file))


# -- applying --------------------------------------------------------------------


def test_a_recipe_makes_the_model_of_a_student_and_its_teachers() -> None:
    given = copy.deepcopy(RECIPE)
    made = apply_recipe(
        dict(type='GFL'), dict(t=dict(cfg='t.py', checkpoint='t.pth')), given
    )
    assert made == dict(
        type='Distiller',
        student=dict(type='GFL'),
        teachers=dict(t=dict(cfg='t.py', checkpoint='t.pth')),
        **RECIPE,
    )
    made['terms']['loss_soft']['weight'] = 0
    assert given == RECIPE


def test_what_a_recipe_says_of_teachers_comes_over_them() -> None:
    own = dict(t=dict(taps=dict(logits='fc')), pruned=dict(prune_of='t', prune=0.3))
    made = apply_recipe(
        {}, dict(t=dict(cfg='t.py', checkpoint=None)), dict(teachers=own, **RECIPE)
    )
    assert made['teachers'] == dict(
        t=dict(cfg='t.py', checkpoint=None, taps=dict(logits='fc')),
        pruned=dict(prune_of='t', prune=0.3),
    )


def test_settings_come_over_the_recipes() -> None:
    made = apply_recipe({}, {}, RECIPE, probe_size=32, task_weight=0.5)
    assert (made['probe_size'], made['task_weight']) == (32, 0.5)


@pytest.mark.parametrize('recipe', [[1], {3: 1}, dict(student={}), dict(type='X')])
def test_what_cannot_be_applied_is_told(recipe: Any) -> None:
    with pytest.raises(ConfigError):
        apply_recipe({}, {}, recipe)


# -- repeating -------------------------------------------------------------------


def test_terms_are_there_once_for_each_teacher_with_the_factor() -> None:
    made = repeat_recipe(RECIPE, ['t', 'a'], 0.25)
    assert set(made['terms']) == {'loss_soft_t', 'loss_soft_a'}
    for name, term in made['terms'].items():
        assert term['teacher'] == f'{name[-1]}.logits'
        assert term['weight'] == 0.5 and term['tau'] == 4.0
    assert made['taps'] == RECIPE['taps'] and made['probe_size'] == 16
    assert RECIPE['terms']['loss_soft']['weight'] == 2.0  # untouched


def test_a_loss_that_takes_no_weight_is_refused() -> None:
    class Constant(PairLoss):
        def __init__(self, tau: float = 1.0) -> None:
            super().__init__()

    term = {**RECIPE['terms']['loss_soft'], 'type': Constant}
    del term['weight']
    with pytest.raises(ConfigError, match='loss_own: Constant takes no weight'):
        repeat_recipe({**RECIPE, 'terms': dict(loss_own=term)}, ['t', 'a'], 0.5)


def test_adapters_are_repeated_with_what_reads_them_and_the_students_own_stay() -> None:
    recipe = dict(
        taps=dict(f='neck'),
        adapters=dict(guide=dict(type='GuidanceLayer', student='f', teacher='t.f')),
        branches=dict(explore=dict(type='ExplorationBranch', on='neck.fpn_convs')),
        terms=dict(
            loss_relation=dict(
                type='RelationKD', student='guide.student', teacher='guide.teacher'
            ),
            loss_own=dict(type='AttentionKD', student='f', teacher='explore.inherit'),
        ),
    )
    made = repeat_recipe(recipe, ['big', 'small'])
    assert made['adapters']['guide_small']['teacher'] == 'small.f'
    relation = made['terms']['loss_relation_big']
    assert relation['student'] == 'guide_big.student'
    assert relation['teacher'] == 'guide_big.teacher'
    assert relation['weight'] == 1.0  # the loss's own default, times the factor
    assert made['terms']['loss_own'] == recipe['terms']['loss_own']
    assert made['branches'] == recipe['branches']
    names = {'loss_relation_big', 'loss_relation_small', 'loss_own'}
    assert set(made['terms']) == names


def test_pruned_copies_are_made_of_every_teacher() -> None:
    term = dict(
        type='DLKD', student='logits', teacher='t.logits', pruned='pruned.logits'
    )
    recipe = dict(
        taps=dict(logits='head'),
        teachers=dict(pruned=dict(prune_of='t', prune=0.3)),
        terms=dict(loss_dlkd=term),
    )
    made = repeat_recipe(recipe, ['t', 'a'], 0.5)
    assert made['teachers'] == dict(
        pruned_t=dict(prune_of='t', prune=0.3), pruned_a=dict(prune_of='a', prune=0.3)
    )
    term = made['terms']['loss_dlkd_a']
    assert (term['teacher'], term['pruned']) == ('a.logits', 'pruned_a.logits')


def test_the_own_loss_of_an_adapter_is_weighed_as_terms_are() -> None:
    align = dict(type='NonLinearAlign', student='f', teacher='t.f', weight=3.0)
    recipe = {**RECIPE, 'adapters': dict(align=align)}
    made = repeat_recipe(recipe, ['t', 'a'], 0.5)
    assert made['adapters']['align_a'] == {**align, 'teacher': 'a.f', 'weight': 1.5}


def test_one_share_holds_for_all_repeated_terms() -> None:
    balance = dict(type='GradientShare', shares=0.5)
    made = repeat_recipe({**RECIPE, 'balance': balance}, ['t', 'a'], 0.5)
    assert made['balance'] == balance


@pytest.mark.parametrize(
    'change',
    [
        dict(terms={}),
        dict(terms=dict(loss_soft=3)),
        dict(terms=dict(loss_soft=dict(type='SoftOutputKD', student='logits'))),
        dict(teachers=dict(u=dict(cfg='u.py'))),
        dict(sampling=dict(keep_prob=0.5)),
        dict(balance=dict(type='GradientShare', shares=dict(loss_soft=0.5))),
        dict(
            terms=dict(
                loss_soft=RECIPE['terms']['loss_soft'],
                loss_soft_a=dict(type='AttentionKD', student='f', teacher='b.f'),
            )
        ),
    ],
    ids=str,
)
def test_what_cannot_be_repeated_is_told(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match='chain: recipe'):
        repeat_recipe({**RECIPE, **change}, ['t', 'a'], 0.5, 'chain: recipe')


@pytest.mark.parametrize('recipe', packaged_recipes(), ids=lambda r: r.name)
def test_every_term_of_a_recipe_gives_its_share(recipe: Recipe) -> None:
    """A weight does not carry over to other data: `mkd-det calibrate` needs shares."""
    shares = {
        name: term.get('share') for name, term in recipe.arguments['terms'].items()
    }
    assert all(is_number(share) and share > 0 for share in shares.values()), shares


def test_shares_are_scaled_as_weights_are() -> None:
    term = {**RECIPE['terms']['loss_soft'], 'share': 3.0, 'weight': 0.8}
    made = repeat_recipe({**RECIPE, 'terms': dict(loss_soft=term)}, ['t', 'a'], 0.5)
    for name in ('loss_soft_t', 'loss_soft_a'):
        assert made['terms'][name]['share'] == 1.5
        assert made['terms'][name]['weight'] == 0.4
