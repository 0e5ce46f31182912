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
from mkd_det.recipes import recipes_for

RECIPES = Path(__file__).resolve().parents[1] / 'configs/_base_/recipes'
FEATURES = {'cwd_dense', 'fgd_dense', 'mgd_dense', 'pkd_dense'}
MKD = {'mkd_dense', 'mkd_fgd_dense'}
DENSE = FEATURES | MKD | {'soft_dense', 'mkd_balanced_dense', 'mkd_fgd_balanced_dense'}


def four_layers(make: Callable[..., dict], *widths: int) -> dict:
    cfg = make(*widths)
    cfg['bbox_head']['stacked_convs'] = 4
    return cfg


def classifier(*_: int) -> dict:
    return tiny_images.classifier(base_channels=4)


MODELS: dict[str, tuple[Callable[..., dict], set[str]]] = {
    'GFL': (tiny.gfl, DENSE | {'ld_dense'}),
    'RetinaNet': (tiny.retinanet, DENSE),
    'RetinaNet, four layers': (
        lambda *widths: four_layers(tiny.retinanet, *widths),
        DENSE | {'crosskd_dense'},
    ),
    'Faster R-CNN': (
        lambda *_: tiny.faster_rcnn(),
        FEATURES | {'dkd_two_stage', 'dist_two_stage'},
    ),
    'classifier': (classifier, {'kd_logits'}),
}


def taught(make: Callable[..., dict], recipe: str, folder: Path) -> dict[str, Any]:
    student, teacher = make(4, 8), make(8, 16)
    file = folder / 't.pth'
    torch.save(tiny.build(teacher).state_dict(), file)
    told = Config.fromfile(RECIPES / f'{recipe}.py').recipe
    teachers = dict(t=dict(cfg=teacher, checkpoint=str(file)))
    return dict(
        type='Distiller', student=student, teachers=teachers, probe_size=64, **told
    )


@pytest.mark.parametrize('model', MODELS)
def test_those_that_fit_are_those_that_can_be_built(model: str, tmp_path: Path) -> None:
    make, expected = MODELS[model]
    pair = tiny.build(make(4, 8)), tiny.build(make(8, 16))
    assert recipes_for(*pair) == sorted(expected)
    built = set()
    for file in RECIPES.glob('*.py'):
        try:
            tiny.build(taught(make, file.stem, tmp_path))
        except MkdError:
            continue
        built.add(file.stem)
    assert built == expected


@pytest.mark.parametrize(
    ('model', 'recipe', 'error', 'words'),
    [
        ('RetinaNet', 'ld_dense', HeadKindError, 'LD: needs box distributions'),
        ('GFL', 'crosskd_dense', TapNotFoundError, "adapter 'cross': CrossHead: tap"),
        ('Faster R-CNN', 'ld_dense', TapNotFoundError, "term 'loss_ld': LD: tap"),
        ('classifier', 'fgd_dense', PlanError, 'FGD needs boxes of the ground truth'),
        ('GFL', 'dkd_two_stage', HeadKindError, 'ProposalHead: .* no box head'),
    ],
)
def test_one_that_does_not_fit_names_those_that_would(
    model: str, recipe: str, error: type[MkdError], words: str, tmp_path: Path
) -> None:
    make, expected = MODELS[model]
    with pytest.raises(error, match=words) as info:
        tiny.build(taught(make, recipe, tmp_path))
    line = info.value.hint.splitlines()[-1]
    assert line == f'recipes that fit the pair: {", ".join(sorted(expected))}'
