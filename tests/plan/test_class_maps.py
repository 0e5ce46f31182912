"""A teacher of other classes teaches what both know: whole models, one step."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
import tiny_images
from mkd_det.errors import ConfigError, PlanError, TeacherClassesError
from mkd_det.plan.recipes import packaged_recipes
from plans import refused, term

RECIPES = {recipe.name: recipe.arguments for recipe in packaged_recipes()}
# The student has red, green and blue; the teacher has them among five.
SOURCES = [4, 0, 2]
NAMES = ('green', 'cat', 'blue', 'dog', 'Red')
LABELS = 'roi_head.bbox_head.loss_cls:in1'


def narrowed(big: dict[str, Tensor], small: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of five classes cut down to the three of the student."""
    found = {}
    for key, value in big.items():
        if value.shape == small[key].shape:
            found[key] = value
            continue
        rest = value.shape[1:]
        if 'fc_reg' in key:  # four sides for each class
            cut = value.view(5, 4, *rest)[SOURCES].flatten(0, 1)
        elif len(value) % 6 == 0 and 'cls' in key and 'retina' not in key:
            cut = value[[*SOURCES, 5]]  # the background is the last
        elif 'retina' in key:
            cut = value.view(-1, 5, *rest)[:, SOURCES].flatten(0, 1)
        else:
            cut = value[SOURCES]
        found[key] = cut
    return found


def without_foreign(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights whose two other classes are never seen, where classes exclude
    each other."""
    weights = {key: value.clone() for key, value in weights.items()}
    for key, value in weights.items():
        if key.endswith('fc_cls.bias') and len(value) == 6:
            value[[1, 3]] = -1e4
    return weights


def losses_of(cfg: dict[str, Any]) -> dict[str, float]:
    model = tiny.build(cfg).train()
    data = model.data_preprocessor(tiny.batch(masks=True), True)
    torch.manual_seed(3)
    np.random.seed(3)
    found = model(**data, mode='loss')
    return {
        name: float(value.detach())
        for name, value in found.items()
        if any(name.startswith(name_of) for name_of in model.plan.terms)
    }


def of_proposals() -> dict[str, Any]:
    """Classes of proposals in every way that reads them."""
    read = dict(student='classes', teacher='proposals.teacher')
    return dict(
        adapters=dict(
            proposals=dict(type='ProposalHead', student='rois', teacher='t.pyramid'),
            regions=dict(type='RegionHead', student='rois', teacher='t.pyramid'),
            masks=dict(type='ProposalMasks', student='mask_rois', teacher='t.pyramid'),
        ),
        taps=dict(
            pyramid='neck',
            rois='roi_head.bbox_roi_extractor:in1',
            classes='roi_head.bbox_head.fc_cls',
            box_head='roi_head.bbox_head',
            mask_rois='roi_head.mask_roi_extractor:in1',
            masks='roi_head.mask_head',
            labels=LABELS,
            rpn='rpn_head',
        ),
        terms=dict(
            loss_soft=dict(type='SoftOutputKD', classes='softmax', **read),
            loss_dkd=dict(type='ProposalDKD', labels='labels', **read),
            loss_dist=dict(type='DIST', **read),
            loss_regions=dict(
                type='ProposalKD', student='box_head', teacher='regions.teacher'
            ),
            loss_objects=dict(type='SoftOutputKD', student='rpn', teacher='t.rpn'),
            loss_masks=dict(
                type='ProposalMaskKD',
                student='masks',
                teacher='masks.teacher',
                labels='labels',
            ),
        ),
    )


def crossed() -> dict[str, Any]:
    layers = ['bbox_head.cls_convs.0', 'bbox_head.reg_convs.0']
    return dict(
        taps=dict(inner=layers, head='bbox_head'),
        adapters=dict(cross=dict(type='CrossHead', student='inner', teacher='t.inner')),
        terms=dict(
            loss_cross=dict(
                type='SoftOutputKD', student='cross.student', teacher='t.head'
            ),
            loss_ld=dict(type='LD', student='head', teacher='t.head'),
        ),
    )


def dense() -> dict[str, Any]:
    heads = dict(student='head', teacher='t.head')
    return dict(
        taps=dict(head='bbox_head'),
        adapters={},
        terms=dict(
            loss_soft=dict(type='SoftOutputKD', balance=1.0, **heads),
            loss_sum=dict(type='LossAggregation', **heads),
        ),
    )


def of_queries() -> dict[str, Any]:
    heads = dict(student='queries', teacher='t.queries')
    return dict(
        taps=dict(queries='bbox_head'),
        adapters={},
        terms=dict(loss_query=dict(type='QueryKD', layers='all', **heads)),
    )


def shared_queries() -> dict[str, Any]:
    heads = dict(student='shared.student', teacher='shared.teacher')
    return dict(
        taps=dict(decoder='decoder:call'),
        adapters=dict(
            shared=dict(type='SharedQueries', student='decoder', teacher='t.decoder')
        ),
        terms=dict(loss_query=dict(type='QueryKD', **heads)),
    )


CASES = [
    pytest.param(tiny.gfl, dense(), id='gfl'),
    pytest.param(tiny.retinanet, dense(), id='retinanet'),
    pytest.param(tiny.gfl, crossed(), id='crosskd'),
    pytest.param(tiny.mask_rcnn, of_proposals(), id='two-stage'),
    pytest.param(tiny.detr, of_queries(), id='queries'),
    pytest.param(tiny.detr, shared_queries(), id='shared-queries'),
]


@pytest.mark.parametrize('kind, parts', CASES)
def test_a_mapped_teacher_teaches_as_one_of_the_students_classes(
    kind: Callable[..., dict], parts: dict[str, Any], tmp_path: Path
) -> None:
    big, small = kind(num_classes=5), kind(num_classes=3)
    weights = without_foreign(tiny.build(big, seed=1).state_dict())
    torch.save(dict(state_dict=weights), tmp_path / 'big.pth')
    cut = narrowed(weights, tiny.build(small).state_dict())
    torch.save(dict(state_dict=cut), tmp_path / 'small.pth')
    changes = {'branches': {}, **deepcopy(parts)}
    wanted = losses_of(tiny.distiller(kind(), small, tmp_path / 'small.pth', **changes))
    cfg = tiny.distiller(kind(), big, tmp_path / 'big.pth', **changes)
    cfg['classes'] = tiny.CLASSES
    cfg['teachers']['t'].update(class_map='auto', classes=NAMES)
    found = losses_of(cfg)
    assert found.keys() == wanted.keys() and len(found) >= len(parts['terms'])
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name
        assert value > 0, name


def test_a_map_of_the_same_classes_changes_no_bit_and_no_plan(tmp_path: Path) -> None:
    file = tiny.write_checkpoint(tiny.gfl(), tmp_path / 't.pth')
    plain = tiny.distiller(tiny.gfl(), tiny.gfl(), file, branches={}, **dense())
    mapped = deepcopy(plain)
    mapped['classes'] = tiny.CLASSES
    mapped['teachers']['t'].update(class_map='auto', classes=tiny.CLASSES)
    assert losses_of(mapped) == losses_of(plain)
    plans = [tiny.build(cfg).plan for cfg in (plain, mapped)]
    assert plans[0].describe() == plans[1].describe()
    assert 'changes nothing' in plans[1].table(200)


# -- classifiers -----------------------------------------------------------------

OWN, OTHER = ('blue', 'green', 'red', 'grey'), ('pink', 'Green', 'red', 'blue', 'tan')


def classifiers(**teachers: Any) -> dict[str, Any]:
    """Config of a classifier of four classes; teacher `t` has three of them."""
    cfg = {**tiny_images.classifier(), 'num_classes': 4}
    other = {**cfg, 'num_classes': 5}
    told = dict(class_map='auto', classes=OTHER, cfg=other, checkpoint=None)
    return dict(
        type='Distiller',
        student=cfg,
        classes=OWN,
        teachers=dict(t=told, **teachers),
        taps=dict(logits='head'),
        probe_size=16,
    )


def step_of(cfg: dict[str, Any], labels: tuple[int, ...]) -> Any:
    model = tiny.build(cfg).train()
    batch = model.data_preprocessor(tiny_images.batch(labels), True)
    return model, model(**batch, mode='loss')


def test_losses_of_classifiers_leave_out_what_the_teacher_lacks() -> None:
    read = dict(student='logits', teacher='t.logits')
    cfg = classifiers(pruned=dict(prune_of='t'))
    cfg['task_weight'] = 0.0
    cfg['terms'] = dict(
        loss_kd=dict(type='SoftOutputKD', tau=4.0, **read),
        loss_dkd=dict(type='DKD', **read),
        loss_dist=dict(type='DIST', **read),
        loss_dlkd=dict(type='DLKD', pruned='pruned.logits', **read),
        loss_sum=dict(type='LossAggregation', **read),
    )
    model, losses = step_of(cfg, (0, 1, 2, 3))
    assert model.plan.class_maps['t'].sources == ((3,), (1,), (2,), ())
    total, _ = model.parse_losses(losses)
    total.backward()
    grad = model.student.head.weight.grad
    assert torch.equal(grad[3], torch.zeros_like(grad[3]))
    assert all(grad[index].abs().sum() > 0 for index in range(3))


def test_a_label_that_no_target_is_for_teaches_nothing_in_dkd() -> None:
    cfg = classifiers()
    cfg['terms'] = term('DKD', 'logits', 't.logits')
    _, losses = step_of(cfg, (3, 3))
    assert losses['loss_x_target'] == losses['loss_x_rest'] == 0


def test_each_teacher_has_a_map_of_its_own_and_weighs_where_it_knows() -> None:
    u = dict(cfg={**tiny_images.classifier(), 'num_classes': 2}, checkpoint=None)
    u |= dict(class_map={'grey': 1, 'red': 0}, classes=('rot', 'grau'))
    cfg = classifiers(u=u)
    cfg['terms'] = {
        f'loss_{name}': dict(
            type='SoftOutputKD', student='logits', teacher=f'{name}.logits'
        )
        for name in 'tu'
    }
    cfg['teacher_weights'] = dict(tap='logits')
    model, _ = step_of(cfg, (0, 1, 2, 3))
    assert [m.shared for m in model.plan.class_maps.values()] == [(0, 1, 2), (2, 3)]
    batch = model.data_preprocessor(tiny_images.batch((0, 1, 2, 3)), True)
    known = {
        name: {
            'logits': type('Known', (), dict(levels=(teacher.model(batch['inputs']),)))
        }
        for name, teacher in model.teachers.items()
    }
    weights = model.weigher(known, batch['data_samples'])
    # Blue and green are known to t alone, grey to u alone.
    assert weights['t'][[0, 1, 3]].tolist() == [2, 2, 0]
    assert weights['u'][[0, 1, 3]].tolist() == [0, 0, 2]
    assert 0 < weights['t'][2] < 2


# -- what is refused -------------------------------------------------------------

FIVE = dict(t=dict(cfg=tiny.gfl(8, 16, num_classes=5), checkpoint=None))
SOFT = term('SoftOutputKD', 'head', 't.head')


def mapped(**more: Any) -> dict[str, Any]:
    return dict(t={**FIVE['t'], **more})


def test_another_number_of_classes_names_the_map_that_works() -> None:
    error = refused(TeacherClassesError, teachers=FIVE, terms=SOFT)
    line = error.fix.splitlines()[0]
    assert "teachers=dict(t=dict(class_map='auto'))" in line
    # As it says; names come from data and checkpoint, or by hand.
    told = refused(ConfigError, teachers=mapped(class_map='auto'), terms=SOFT)
    assert told.fix.startswith('model.classes=')
    teachers = mapped(class_map='auto', classes=NAMES)
    model = build_with(teachers, classes=tiny.CLASSES)
    assert model.plan.class_maps['t'].shared == (0, 1, 2)


def build_with(teachers: dict[str, Any], **more: Any) -> Any:
    cfg = tiny.distiller(tiny.gfl(4, 8), {}, adapters={}, branches={}, terms=SOFT)
    return tiny.build({**cfg, 'teachers': teachers, **more})


def test_names_must_be_as_many_as_the_head_has() -> None:
    for teachers, classes, key in (
        (mapped(class_map='auto', classes=NAMES[:4]), tiny.CLASSES, 'teachers.t'),
        (mapped(class_map='auto', classes=NAMES), ('red', 'blue'), 'classes'),
    ):
        error = refused(
            TeacherClassesError, teachers=teachers, classes=classes, terms=SOFT
        )
        assert error.message.startswith(key)
    twice = mapped(class_map='auto', classes=('red', *NAMES[1:4], 'red'))
    refused(ConfigError, teachers=twice, classes=tiny.CLASSES, terms=SOFT)


def test_a_softmax_over_one_shared_class_is_refused() -> None:
    cfg = classifiers()
    cfg['teachers']['t']['class_map'] = {'red': 'red'}
    cfg['terms'] = term('SoftOutputKD', 'logits', 't.logits')
    with pytest.raises(TeacherClassesError, match='share one class'):
        tiny.build(cfg)


def test_teachers_of_one_term_have_one_map() -> None:
    cfg = classifiers(pruned=dict(prune_of='t', class_map={'red': 2, 'blue': 3}))
    cfg['terms'] = term('DLKD', 'logits', 't.logits', pruned='pruned.logits')
    with pytest.raises(PlanError, match='different class maps'):
        tiny.build(cfg)


def test_a_tap_that_yields_no_classes_is_refused_under_a_map() -> None:
    cfg = classifiers()
    cfg['taps'] = dict(logits='backbone.layer3')
    cfg['terms'] = term('DIST', 'logits', 't.logits')
    with pytest.raises(TeacherClassesError, match='are not the classes of'):
        tiny.build(cfg)


def test_recipes_plan_under_a_map() -> None:
    """All parts of a recipe, features included."""
    parts = deepcopy(dict(RECIPES['mkd_dense']))
    cfg = tiny.distiller(tiny.gfl(4, 8), {}, **{'branches': {}, **parts})
    cfg['teachers'] = mapped(class_map=[4, 0, 2])
    model = tiny.build(cfg)
    assert model.plan.class_maps['t'].shared == (0, 1, 2)
