"""Which recipes fit a pair, and how errors tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
import tiny_images
from mkd_det.errors import HeadKindError, MkdError, PlanError, TapNotFoundError
from mkd_det.plan.advice.fitting import has_needs, planning_error, recipes_for
from mkd_det.plan.advice.pair import Pair
from mkd_det.plan.recipes import Recipe, packaged_recipes
from mkd_det.probes.cross_head import CrossHead

RECIPES = {recipe.name: recipe for recipe in packaged_recipes()}
FEATURES = {'cwd_dense', 'fgd_dense', 'mgd_dense', 'pkd_dense'}
# Of necks with `fpn_convs`.
PYRAMID = FEATURES | {'mkd_neck'}
MKD = {'mkd_dense', 'mkd_fgd_dense'}
DENSE = PYRAMID | MKD | {'soft_dense', 'mkd_balanced_dense', 'mkd_fgd_balanced_dense'}


def changed(cfg: dict, **head: Any) -> dict:
    cfg['bbox_head'].update(head)
    return cfg


def classifier(*_: int) -> dict:
    return tiny_images.classifier(base_channels=4)


def gfl(*widths: int) -> dict:
    return changed(tiny.gfl(*widths), stacked_convs=4)


def retinanet(*widths: int) -> dict:
    return changed(tiny.retinanet(*widths), stacked_convs=4)


def faster_rcnn(*_: int) -> dict:
    return tiny.faster_rcnn()


def cascade(*_: int) -> dict:
    whole = tiny.cascade_rcnn()
    parts = whole['roi_head']
    parts.update(num_stages=3, stage_loss_weights=[1, 0.5, 0.25])
    parts['bbox_head'] = parts['bbox_head'] + parts['bbox_head'][-1:]
    whole['train_cfg']['rcnn'] = whole['train_cfg']['rcnn'] * 2
    whole['train_cfg']['rcnn'] = whole['train_cfg']['rcnn'][:3]
    return whole


def mask_rcnn(*_: int) -> dict:
    return tiny.mask_rcnn()


def dino(base_channels: int, width: int) -> dict:
    return tiny.dino(base_channels=base_channels, width=width)


def four_levels(*widths: int) -> dict:
    cfg = tiny.gfl(*widths)
    cfg['neck'].update(num_outs=4)
    cfg['bbox_head']['anchor_generator'].update(strides=[8, 16, 32, 64])
    return cfg


def pooled(*widths: int) -> dict:
    """Its last levels are pooled, by no layers of their own."""
    cfg = tiny.gfl(*widths)
    cfg['neck'].update(add_extra_convs=False)
    return cfg


def softmax(*widths: int) -> dict:
    loss = dict(type='CrossEntropyLoss', use_sigmoid=False)
    return changed(tiny.retinanet(*widths), loss_cls=loss)


def yolox(*_: int) -> dict:
    """Its neck has three levels, and layers of other names."""
    widths = [16, 32, 64]
    return dict(
        type='YOLOX',
        data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
        backbone=dict(type='CSPDarknet', deepen_factor=0.33, widen_factor=0.0625),
        neck=dict(
            type='YOLOXPAFPN', in_channels=widths, out_channels=16, num_csp_blocks=1
        ),
        bbox_head=dict(
            type='YOLOXHead', num_classes=3, in_channels=16, feat_channels=16
        ),
        train_cfg=dict(assigner=dict(type='SimOTAAssigner')),
        test_cfg=dict(score_thr=0.01, nms=dict(type='nms', iou_threshold=0.65)),
    )


Make = Callable[..., dict]
# Student, teacher, and which recipes fit the two.
PAIRS: dict[str, tuple[Make, Make, set[str]]] = {
    'GFL': (tiny.gfl, tiny.gfl, DENSE | {'ld_dense'}),
    'RetinaNet': (tiny.retinanet, tiny.retinanet, DENSE),
    'RetinaNet, four layers': (retinanet, retinanet, DENSE | {'crosskd_dense'}),
    'Faster R-CNN': (
        faster_rcnn,
        faster_rcnn,
        PYRAMID
        | {'dkd_two_stage', 'dist_two_stage', 'soft_two_stage', 'mkd_two_stage'},
    ),
    'Mask R-CNN': (
        mask_rcnn,
        mask_rcnn,
        PYRAMID
        | {'dkd_two_stage', 'dist_two_stage', 'soft_two_stage', 'mkd_two_stage'},
    ),
    'Cascade R-CNN, three stages': (
        cascade,
        cascade,
        PYRAMID | {'soft_cascade_two_stage', 'mkd_cascade_two_stage'},
    ),
    'classifier': (classifier, classifier, {'kd_logits'}),
    'YOLOX': (yolox, yolox, FEATURES | {'soft_dense', 'mkd_csp_dense'}),
    'DINO': (dino, dino, FEATURES | {'mkd_query', 'mkd_shared_query'}),
    # Heads of other anchors, of points; pyramids of other levels.
    'GFL, of RetinaNet': (gfl, retinanet, PYRAMID | {'crosskd_dense'}),
    'GFL, of ATSS': (tiny.gfl, tiny.atss, DENSE),
    'GFL, of other bins': (
        tiny.gfl,
        lambda *widths: changed(tiny.gfl(*widths), reg_max=8),
        DENSE,
    ),
    'GFL, of Faster R-CNN': (tiny.gfl, faster_rcnn, PYRAMID),
    'GFL, of four levels': (tiny.gfl, four_levels, DENSE | {'ld_dense'}),
    'GFL, of pooled levels': (tiny.gfl, pooled, DENSE | {'ld_dense'}),
    'softmax': (softmax, softmax, PYRAMID),
    'RetinaNet, of softmax': (tiny.retinanet, softmax, PYRAMID),
}


def models(pair: str) -> tuple[Any, Any]:
    student, teacher, _ = PAIRS[pair]
    return tiny.build(student(4, 8)), tiny.build(teacher(8, 16)).eval()


def taught(pair: str, recipe: str, folder: Path) -> dict[str, Any]:
    student, teacher, _ = PAIRS[pair]
    file = folder / 't.pth'
    torch.save(tiny.build(teacher(8, 16)).state_dict(), file)
    return dict(
        type='Distiller',
        student=student(4, 8),
        teachers=dict(t=dict(cfg=teacher(8, 16), checkpoint=str(file))),
        probe_size=64,
        **RECIPES[recipe].arguments,
    )


@pytest.mark.parametrize('name', PAIRS)
def test_recipes_that_fit_are_those_that_can_be_planned(name: str) -> None:
    student, teacher = models(name)
    pair = Pair(student, teacher, (64, 64))
    before = list(student.state_dict()), torch.get_rng_state()
    assert recipes_for(pair) == sorted(PAIRS[name][2])
    for recipe in RECIPES.values():
        if not has_needs(recipe.needs, student, teacher):
            assert planning_error(recipe, pair) is not None, recipe.name
    assert list(student.state_dict()) == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert not any(m._forward_hooks for m in (*student.modules(), *teacher.modules()))


def test_a_class_map_makes_heads_of_other_classes_comparable() -> None:
    student = tiny.build(changed(gfl(4, 8), num_classes=2))
    teacher = tiny.build(gfl(8, 16))
    names = tiny.CLASSES[1:], tiny.CLASSES
    pair = Pair(student, teacher, (64, 64), None, 'auto', *names)
    assert 'soft_dense' not in recipes_for(Pair(student, teacher, (64, 64)))
    assert {'soft_dense', 'mkd_dense'} <= set(recipes_for(pair))
    strangers = replace(pair, classes=('one', 'two'))
    assert recipes_for(strangers) == []


def tapped(recipe: Recipe) -> tuple[set[str], set[str]]:
    """Paths that the adapters and terms of a recipe read of student and teacher."""
    given = recipe.arguments
    paths = {
        name: {path.partition(':')[0] for path in [tap] if isinstance(tap, str)}
        or {path.partition(':')[0] for path in tap}
        for name, tap in given['taps'].items()
    }
    sides: tuple[set[str], set[str]] = set(), set()
    terms = [term for term in given['terms'].values() if 'only_with' not in term]
    texts = [text for term in terms for text in term.values() if isinstance(text, str)]
    read = {text.partition('.')[0] for text in texts}
    adapters = [a for name, a in given.get('adapters', {}).items() if name in read]
    for part in [*adapters, *terms]:
        for text in (value for value in part.values() if isinstance(value, str)):
            owner, _, name = text.rpartition('.')
            if owner == '' or owner == 't':
                sides[owner == 't'].update(paths.get(name, ()))
    return sides


@pytest.mark.parametrize('name', RECIPES)
def test_needs_name_what_the_recipe_taps(name: str) -> None:
    """Every module that is tapped is needed, or a child of it is; and no other."""
    recipe = RECIPES[name]
    branches = recipe.arguments.get('branches', {}).values()
    added = {branch['on'] for branch in branches}
    for needed, paths, more in zip(
        (recipe.needs.student, recipe.needs.teacher), tapped(recipe), (added, set())
    ):
        for n in needed:
            assert any(f'{n}.'.startswith(f'{path}.') for path in paths | more), n
        for path in paths | more:
            assert any(f'{n}.'.startswith(f'{path}.') for n in needed), path


@pytest.mark.parametrize('name', RECIPES)
def test_some_pair_of_these_tests_fits_every_recipe(name: str) -> None:
    """Segmentors need mmseg; `test_openmmlab_pairs.py` has a pair of them."""
    fits = any(name in fitting for _, _, fitting in PAIRS.values())
    assert fits or name == 'cwd_segmentor'


@pytest.mark.parametrize(
    ('pair', 'recipe', 'error', 'words'),
    [
        ('RetinaNet', 'ld_dense', HeadKindError, 'LD: .* box distributions'),
        ('GFL', 'crosskd_dense', TapNotFoundError, "adapter 'cross': CrossHead: tap"),
        ('Faster R-CNN', 'ld_dense', TapNotFoundError, "term 'loss_ld': LD: tap"),
        ('classifier', 'fgd_dense', PlanError, 'FGD needs boxes of the ground truth'),
        ('GFL', 'dkd_two_stage', HeadKindError, 'ProposalHead: .* no box head'),
        ('GFL, of RetinaNet', 'soft_dense', HeadKindError, 'at different places'),
    ],
)
def test_one_that_does_not_fit_names_those_that_would(
    pair: str, recipe: str, error: type[MkdError], words: str, tmp_path: Path
) -> None:
    *_, expected = PAIRS[pair]
    with pytest.raises(error, match=words) as info:
        tiny.build(taught(pair, recipe, tmp_path))
    line = info.value.fix.splitlines()[-1]
    assert line == f'recipes that fit the pair: {", ".join(sorted(expected))}'


def test_the_taps_of_crosskd_on_yolox_are_named() -> None:
    """Each level has branches of its own there."""
    wanted = ('multi_level_cls_convs.*.0', 'multi_level_reg_convs.*.0')
    model = tiny.build(yolox())
    assert CrossHead.suggest_taps(model) == tuple(f'bbox_head.{p}' for p in wanted)
