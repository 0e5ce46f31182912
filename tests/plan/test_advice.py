"""The advice of an error works when it is followed literally; no circles."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

import stock
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


def followed(cfg: dict[str, Any], error: MkdError) -> list[dict[str, Any]]:
    """The configs that somebody writes who does what an error says, one for each
    piece of advice."""
    made = []
    for line in error.fix.splitlines():
        new = deepcopy(cfg)
        if line.startswith(WORDS):
            names = line.removeprefix(WORDS).split(', ')
            pair = cfg['student'], cfg['teachers']['t']['cfg']
            # All have been planned before they were named: one shall do here.
            made.append(taught(*deepcopy(pair), names[len(names) // 2]))
            continue
        if line.startswith('taps='):
            new['taps'].update(eval(line.removeprefix('taps=')))
        elif line.startswith('teachers.t.taps='):
            own = eval(line.removeprefix('teachers.t.taps='))
            new['teachers']['t'].setdefault('taps', {}).update(own)
        elif line.startswith("type='"):
            kind = line.split("'")[1]
            sides = dict(student='head', teacher='t.head')
            new['taps']['head'] = 'bbox_head'
            new['terms'] = dict(loss_new=dict(type=kind, **sides))
            new['adapters'] = {}
        elif "taps=dict(fpn='neck')" in line:
            align = dict(type='LinearAlign', student='fpn', teacher='t.fpn')
            sides = dict(student='align.student', teacher='align.teacher')
            new.update(
                taps=dict(fpn='neck'),
                adapters=dict(align=align),
                terms=dict(loss_new=dict(type='FeatureKD', **sides)),
            )
        elif line.endswith(".*'"):
            keys = [k for k, path in cfg['taps'].items() if f"'{path}.*'" == line]
            new['taps'].update(dict.fromkeys(keys, line.strip("'")))
        else:
            continue
        made.append(new)
    return made


WIDE, NARROW = (8, 16), (4, 8)
# Pairs and recipes whose errors have gone in circles, or are like those.
CASES: dict[str, tuple[Any, Any, str]] = {
    'CrossKD on RTMDet-Ins': (
        stock.rtmdet_ins(*NARROW),
        stock.rtmdet_ins(*WIDE),
        'crosskd_dense',
    ),
    'CrossKD on SABL': (
        stock.sabl_retinanet(*NARROW),
        stock.sabl_retinanet(*WIDE),
        'crosskd_dense',
    ),
    'LD on SABL': (
        stock.sabl_retinanet(*NARROW),
        stock.sabl_retinanet(*WIDE),
        'ld_dense',
    ),
    'M-KD on YOLOv3': (stock.yolov3(), stock.yolov3(), 'mkd_dense'),
    'M-KD on CenterNet': (stock.centernet(), stock.centernet(), 'mkd_dense'),
    'soft outputs of guided anchors': (
        stock.ga_retinanet(*NARROW),
        stock.ga_retinanet(*WIDE),
        'soft_dense',
    ),
    'soft outputs of DETR': (tiny.detr(), tiny.detr(), 'soft_dense'),
    'soft outputs of DINO': (tiny.dino(), tiny.dino(), 'soft_dense'),
    'queries of another kind': (tiny.detr(), tiny.dino(), 'mkd_query'),
    'queries of a dense head': (tiny.gfl(*NARROW), tiny.gfl(*WIDE), 'mkd_query'),
    'proposals of DETR': (tiny.detr(), tiny.detr(), 'dkd_two_stage'),
    'other classes': (
        tiny.gfl(*NARROW),
        tiny.gfl(*WIDE, num_classes=5),
        'soft_dense',
    ),
}


@pytest.mark.parametrize('case', CASES)
def test_advice_that_is_followed_leads_to_a_plan(case: str) -> None:
    student, teacher, recipe = CASES[case]
    cfg = taught(deepcopy(student), deepcopy(teacher), recipe)
    error, names = advice(deepcopy(cfg))
    assert names and recipe not in names
    made = followed(cfg, error)
    assert made
    for new in made:
        assert tiny.build(new).plan.terms


def test_the_layers_of_a_swin_are_named_by_its_backbone() -> None:
    layers = [f'backbone.layer{n}' for n in (2, 3, 4)]
    sides = dict(student='stages', teacher='t.stages')
    cfg = taught(tiny.retinanet(*NARROW), stock.swin_retinanet(), 'cwd_dense')
    cfg |= dict(
        taps=dict(stages=layers),
        adapters={},
        terms=dict(loss_attention=dict(type='AttentionKD', **sides)),
    )
    error, _ = advice(deepcopy(cfg))
    for new in followed(cfg, error):
        assert tiny.build(new).plan.terms
    assert "teachers.t.taps=dict(stages='backbone')" in error.fix
    assert "(teacher 't', a RetinaNet" in error.message


def test_children_of_a_list_are_named_only_where_they_work() -> None:
    pair = tiny.gfl(*NARROW), tiny.gfl(*WIDE)
    cfg = taught(*pair, 'fgd_dense', taps=dict(fpn='neck.fpn_convs'))
    error, _ = advice(deepcopy(cfg))
    assert "'neck.fpn_convs.*'" in error.fix
    error, _ = advice(taught(*CASES['CrossKD on RTMDet-Ins']))
    assert "cls_convs.2.*'" not in error.fix


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
