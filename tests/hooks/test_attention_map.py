"""Attention maps show the features and do not change the training."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

import hook_runs
import plans
import tiny
from mkd_det.config_files.reading import read_config
from mkd_det.distiller.model import Distiller
from mkd_det.errors import ConfigError, TapSilentError
from mkd_det.hooks.attention_maps import (
    CAPTION,
    _overlays,
    _read,
    draw_attention,
    find_taps,
)


def test_pictures_of_all_taps_go_to_png_and_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip('tensorboard')
    cfg = hook_runs.distill_cfg(tmp_path, epochs=2, images=4)
    cfg.train_cfg.val_begin = 9
    cfg.visualizer.vis_backends.append(dict(type='TensorboardVisBackend'))
    cfg.custom_hooks = [
        dict(type='DiceHook'),
        dict(type='AttentionMapHook', taps=['fpn', 'backbone.layer4'], images=2),
    ]
    cfg.custom_hooks[1].update(interval=2, height=64)
    logs = []
    for hooks in (cfg.custom_hooks, cfg.custom_hooks[:1]):
        run = cfg.copy()
        run.custom_hooks = hooks
        runner = hook_runs.build(run, f'maps{len(hooks)}')
        log = tmp_path / f'{len(hooks)}.log'
        runner.register_hook(hook_runs.LossLog(log))
        runner.train()
        logs.append(hook_runs.logged(log))
        if len(hooks) == 2:
            folder = Path(runner.log_dir, 'vis_data')
    assert logs[0] == logs[1], 'training is another with the hook'
    pictures = {p.name for p in (folder / 'vis_image').glob('*.png')}
    assert pictures == {
        f'attention_{tap}_{image}_{step}.png'
        for tap in ('fpn', 'backbone.layer4')
        for image in (0, 1)
        for step in (0, 2)
    }
    # Columns image, student, teacher; a row for each of the five levels.
    fpn = cv2.imread(str(folder / 'vis_image' / 'attention_fpn_0_2.png'))
    assert fpn.shape == (5 * (64 + CAPTION), 3 * (96 + 4), 3)
    assert list(folder.glob('events.out.*')) or list(folder.rglob('events.out.*'))


def test_the_map_is_hottest_where_the_features_are_strongest() -> None:
    # The lower right cell of a padded input of 64x96, whose image is 48x96.
    level = torch.zeros(1, 3, 4, 6)
    level[0, 1, 2, 4] = -5.0
    image = np.full((48, 96, 3), 128, np.uint8)
    ((caption, overlay),) = _overlays((level,), image, (64, 96))
    assert caption == '3x4x6'
    assert overlay.shape == image.shape
    warm = overlay[..., 0].astype(int) - overlay[..., 2]
    y, x = np.unravel_index(warm.argmax(), warm.shape)
    assert 32 <= y < 48 and 64 <= x < 80


def test_a_tap_that_names_nothing_stops_before_training(tmp_path: Path) -> None:
    cfg = hook_runs.distill_cfg(tmp_path, images=2)
    cfg.custom_hooks = [dict(type='AttentionMapHook', taps='fnp')]
    with pytest.raises(ConfigError, match='tap') as error:
        hook_runs.build(cfg, 'typo').train()
    assert error.value.available[0] == 'fpn'


@pytest.fixture
def mkd() -> Distiller:
    """A small pair under the M-KD recipe."""
    recipe = read_config('mkd_det::_base_/recipes/mkd_dense.py').recipe.to_dict()
    return plans.build(**recipe)


def test_the_fpn_of_the_mkd_recipe_is_drawn(mkd: Distiller) -> None:
    taps = find_taps(mkd, ['fpn'])
    assert {owner: list(map(str, found.values())) for owner, found in taps.items()} == {
        'student': ['neck'], 't': ['neck']
    }  # fmt: skip


def test_by_default_a_teacher_is_beside_the_student_in_every_picture(
    mkd: Distiller,
) -> None:
    levels, size = _read(mkd, find_taps(mkd, None), tiny.batch(1))
    image = np.zeros((*size, 3), np.uint8)
    drawn = {
        tap: [bool(_overlays(levels[owner][tap], image, size)) for owner in levels]
        for tap in levels['student']
    }
    assert drawn == {'fpn': [True, True], 'head': [False, False]}


def test_taps_of_a_second_stage_are_left_out_by_default() -> None:
    """It does not run with the features; asked for by name, it is an error."""
    recipe = read_config('mkd_det::_base_/recipes/mkd_two_stage.py').recipe.to_dict()
    pair = tiny.distiller(tiny.faster_rcnn(4, 8), tiny.faster_rcnn(8, 16), **recipe)
    model = tiny.build(pair).eval()
    samples = [{key: many[0] for key, many in tiny.batch(1).items()}]
    drawn = list(draw_attention(model, samples, pseudo_collate))
    assert {tap for tap, _, _ in drawn} == {'fpn'}
    with pytest.raises(TapSilentError):
        list(draw_attention(model, samples, pseudo_collate, ['rois']))
