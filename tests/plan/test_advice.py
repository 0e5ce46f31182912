"""The advice of an error works when it is followed literally; no circles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

import tiny
from mkd_det.errors import HeadKindError, MkdError, PlanError, TapNotFoundError
from mkd_det.plan.recipes import packaged_recipes

RECIPES = {recipe.name: recipe for recipe in packaged_recipes()}
WORDS = 'recipes that fit the pair: '


def taught(student: dict, teacher: Any, recipe: str, **more: Any) -> dict[str, Any]:
    """The config of a pair that a recipe teaches."""
    own = dict(t=dict(cfg=teacher, checkpoint=None, **more.pop('own', {})))
    given = dict(RECIPES[recipe].arguments)
    taps = {**given.pop('taps'), **more.pop('taps', {})}
    return dict(
        type='Distiller',
        student=student,
        teachers={**own, **given.pop('teachers', {})},
        probe_size=128,
        taps=taps,
        **given,
        **more,
    )


def advice(cfg: dict[str, Any]) -> tuple[MkdError, list[str]]:
    """The error of a config, and the recipes that it names."""
    with pytest.raises(MkdError) as caught:
        tiny.build(cfg)
    lines = [li for li in caught.value.fix.splitlines() if li.startswith(WORDS)]
    return caught.value, lines[0].removeprefix(WORDS).split(', ') if lines else []


def test_crosskd_on_rtmdet_names_the_layers_that_work() -> None:
    student, teacher = tiny.rtmdet(4, 8, convs=2), tiny.rtmdet(8, 16, convs=2)
    error, _ = advice(taught(student, teacher, 'crosskd_dense'))
    line = next(li for li in error.fix.splitlines() if li.startswith('taps='))
    assert "['bbox_head.cls_convs.*.0', 'bbox_head.reg_convs.*.0']" in line
    taps = eval(line.partition('=')[2])
    assert tiny.build(taught(student, teacher, 'crosskd_dense', taps=taps)).plan.terms


def test_layers_are_named_for_each_side_where_they_differ() -> None:
    student, teacher = tiny.gfl(4, 8, convs=1), tiny.gfl(8, 16, convs=2)
    error, _ = advice(taught(student, teacher, 'crosskd_dense'))
    assert error.fix  # that very advice, one line for each side
    heads = tiny.gfl(4, 8, convs=2), tiny.gfl(8, 16, convs=2)
    error, _ = advice(taught(*heads, 'crosskd_dense'))
    line = next(li for li in error.fix.splitlines() if li.startswith('taps='))
    taps = eval(line.partition('=')[2])
    assert tiny.build(taught(*heads, 'crosskd_dense', taps=taps)).plan.terms


@pytest.mark.parametrize(
    ('student', 'teacher', 'recipe'),
    [
        (tiny.cascade_rcnn(), tiny.cascade_rcnn(), 'dkd_two_stage'),
        (tiny.retinanet(4, 8), tiny.faster_rcnn(), 'soft_dense'),
        (tiny.gfl(4, 8), tiny.retinanet(8, 16), 'soft_dense'),
        (tiny.rtmdet(4, 8), tiny.rtmdet(8, 16), 'ld_dense'),
    ],
)
def test_a_recipe_that_is_named_can_be_planned_and_is_not_the_one_that_failed(
    student: dict, teacher: dict, recipe: str
) -> None:
    _, names = advice(taught(student, teacher, recipe))
    assert recipe not in names and names
    for name in names:
        assert tiny.build(taught(student, teacher, name)).plan.terms


def test_features_of_a_two_stage_teacher_meet_those_of_a_dense_student() -> None:
    model = tiny.build(taught(tiny.retinanet(4, 8), tiny.faster_rcnn(), 'fgd_dense'))
    assert model.plan.terms


def test_errors_name_the_model_and_its_file(tmp_path: Path) -> None:
    file = tmp_path / 'teacher.py'
    Config(dict(model=tiny.gfl(8, 16))).dump(file)
    student = tiny.gfl(4, 8)
    own = dict(taps=dict(head='bbox_hat'))
    error, _ = advice(taught(student, str(file), 'soft_dense', own=own))
    assert isinstance(error, TapNotFoundError)
    assert f"(teacher 't', a GFL of {file})" in error.message
    error, _ = advice(taught(student, str(file), 'soft_dense', taps=dict(head='x')))
    assert '(the student, a GFL)' in error.message


def test_misread_heads_are_refused_with_recipes_that_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mkd_det.heads.readers.dense import DenseReader

    def shifted(self: Any, head: Any, level: Any) -> torch.Tensor:
        return plain(self, head, level) + 1.0

    plain = DenseReader.logits
    monkeypatch.setattr(DenseReader, 'logits', shifted)
    error, names = advice(taught(tiny.gfl(4, 8), tiny.gfl(8, 16), 'soft_dense'))
    assert isinstance(error, HeadKindError) and isinstance(error, PlanError)
    assert 'scores are not read as the head predicts them' in error.message
    assert 'fgd_dense' in names and 'soft_dense' not in names
