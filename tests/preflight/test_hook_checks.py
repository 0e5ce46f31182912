"""Hooks that do not fit are refused before anything is trained or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

import hook_runs
from mkd_det.distiller.model import Distiller
from mkd_det.errors import ConfigError
from mkd_det.preflight.hook_checks import check_hooks
from mkd_det.training.runtime import build_model, prepare_config
from tooling import fails


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Distiller]:
    """A config, and its model."""
    folder = tmp_path_factory.mktemp('hooks')
    cfg = prepare_config(hook_runs.distill_cfg(folder, images=3))
    return cfg, build_model(cfg)


@pytest.mark.parametrize(
    ('hook', 'words', 'available'),
    [
        (dict(type='AttentionMapHook', taps='fnp'), 'no tap or module', 'fpn'),
        (dict(type='AttentionMapHook', images=[0, 3]), 'no such image', ''),
        (dict(type='AttentionMapHook', interval=0), 'interval must be', ''),
        (dict(type='AttentionMapHook', tap='fpn'), 'unexpected keyword', ''),
        (dict(type='GradientShareHook', on='backbon'), 'on=', 'backbone'),
        (dict(type='GradientShareHook', low=2, high=1), 'low from 0', ''),
        (dict(type='DifficultyHook', bins=1), 'bins must be', ''),
    ],
)
def test_a_hook_that_does_not_fit_is_refused(
    trained: tuple[Config, Distiller], hook: dict[str, Any], words: str, available: str
) -> None:
    cfg, model = trained
    cfg = cfg.copy()
    cfg.custom_hooks = [hook]
    with pytest.raises(ConfigError) as caught:
        check_hooks(cfg, model)
    assert words in str(caught.value)
    assert not available or caught.value.available[0] == available


def test_hooks_that_fit_and_those_of_mmengine_pass(
    trained: tuple[Config, Distiller],
) -> None:
    cfg, model = trained
    cfg = cfg.copy()
    cfg.custom_hooks = [
        dict(type='AttentionMapHook', taps=['fpn', 'backbone.layer4'], images=[2]),
        dict(type='GradientShareHook'),
        dict(type='EMAHook'),
    ]
    check_hooks(cfg, model)


def test_a_hook_of_distillation_needs_a_distiller(
    trained: tuple[Config, Distiller],
) -> None:
    cfg, model = trained
    cfg = cfg.copy()
    cfg.custom_hooks = [dict(type='DifficultyHook')]
    with pytest.raises(ConfigError, match='works for distillation only'):
        check_hooks(cfg, model.student)


def test_train_refuses_a_hook_before_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cfg = hook_runs.distill_cfg(tmp_path, images=3)
    cfg.custom_hooks = [dict(type='AttentionMapHook', taps='fnp')]
    cfg.dump(tmp_path / 'pair.py')
    argv = [tmp_path / 'pair.py', '--work-dir', tmp_path / 'work']
    fails(capsys, 'train', argv, 'ConfigError', 'AttentionMapHook', 'fpn')
    assert not (tmp_path / 'work').exists()
