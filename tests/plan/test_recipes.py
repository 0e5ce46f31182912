"""Which recipes fit a pair, and how errors tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

import tiny
import tiny_images
from mkd_det.errors import HeadKindError, MkdError, PlanError, TapNotFoundError
from mkd_det.plan.fitting import recipes_for

RECIPES = Path(__file__).resolve().parents[2] / 'configs/_base_/recipes'
FEATURES = {'cwd_dense', 'fgd_dense', 'mgd_dense', 'pkd_dense'}
MKD = {'mkd_dense', 'mkd_fgd_dense'}
DENSE = FEATURES | MKD | {'soft_dense', 'mkd_balanced_dense', 'mkd_fgd_balanced_dense'}


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


def four_levels(*widths: int) -> dict:
    cfg = gfl(*widths)
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


Make = Callable[..., dict]
# Student, teacher, and which recipes fit the two.
PAIRS: dict[str, tuple[Make, Make, set[str]]] = {
    'GFL': (tiny.gfl, tiny.gfl, DENSE | {'ld_dense'}),
    'RetinaNet': (tiny.retinanet, tiny.retinanet, DENSE),
    'RetinaNet, four layers': (retinanet, retinanet, DENSE | {'crosskd_dense'}),
    'Faster R-CNN': (
        faster_rcnn,
        faster_rcnn,
        FEATURES | {'dkd_two_stage', 'dist_two_stage'},
    ),
    'classifier': (classifier, classifier, {'kd_logits'}),
    # Heads of other anchors, of points; pyramids of other levels.
    'GFL, of RetinaNet': (gfl, retinanet, FEATURES | {'crosskd_dense'}),
    'GFL, of ATSS': (tiny.gfl, tiny.atss, DENSE),
    'GFL, of other bins': (
        tiny.gfl,
        lambda *widths: changed(tiny.gfl(*widths), reg_max=8),
        DENSE,
    ),
    'GFL, of Faster R-CNN': (tiny.gfl, faster_rcnn, FEATURES),
    'GFL, of four levels': (gfl, four_levels, set()),
    'GFL, of pooled levels': (tiny.gfl, pooled, DENSE | {'ld_dense'}),
    'softmax': (softmax, softmax, FEATURES),
    'RetinaNet, of softmax': (tiny.retinanet, softmax, FEATURES),
}


def taught(pair: str, recipe: str, folder: Path) -> dict[str, Any]:
    student, teacher, _ = PAIRS[pair]
    file = folder / 't.pth'
    torch.save(tiny.build(teacher(8, 16)).state_dict(), file)
    told = Config.fromfile(RECIPES / f'{recipe}.py').recipe
    teachers = dict(t=dict(cfg=teacher(8, 16), checkpoint=str(file)))
    return dict(
        type='Distiller',
        student=student(4, 8),
        teachers=teachers,
        probe_size=64,
        **told,
    )


@pytest.mark.parametrize('pair', PAIRS)
def test_those_that_fit_are_those_that_can_be_built(pair: str, tmp_path: Path) -> None:
    student, teacher, expected = PAIRS[pair]
    models = tiny.build(student(4, 8)), tiny.build(teacher(8, 16))
    assert recipes_for(*models) == sorted(expected)
    built = set()
    for file in RECIPES.glob('*.py'):
        try:
            tiny.build(taught(pair, file.stem, tmp_path))
        except MkdError:
            continue
        built.add(file.stem)
    assert built == expected


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
