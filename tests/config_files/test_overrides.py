"""Overrides change what the config has, or name the nearest of what it has."""

from __future__ import annotations

from typing import Any

import pytest
from mmengine.config import Config

from mkd_det.config_files.overrides import apply_overrides
from mkd_det.errors import ConfigError


def config() -> Config:
    soft = dict(type='SoftOutputKD', student='head', teacher='t.head')
    return Config(
        dict(
            model=dict(
                type='Distiller',
                student=dict(type='GFL', train_cfg=None),
                teachers=dict(t=dict(cfg='big.py', checkpoint=None)),
                terms=dict(loss_soft=soft, loss_feature=dict(soft, type='FeatureKD')),
            ),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1)),
            train_cfg=dict(max_epochs=12, val_interval=1),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
            custom_hooks=[dict(type='EMAHook')],
        )
    )


@pytest.mark.parametrize(
    ('key', 'where', 'nearest'),
    [
        ('modle.task_weight', 'modle', 'model'),
        ('model.terms.loss_sof.weight', 'model.terms', 'loss_soft'),
        ('model.terms.soft.weight', 'model.terms', 'loss_soft'),
        ('model.terms.loss_sof.schedule.stop_epoch', 'model.terms', 'loss_soft'),
        ('model.teachers.teacher.speed', 'model.teachers', 't'),
    ],
)
def test_a_part_that_is_not_there_is_refused(
    key: str, where: str, nearest: str
) -> None:
    cfg = config()
    with pytest.raises(ConfigError) as caught:
        apply_overrides(cfg, {key: 0}, '--cfg-options')
    assert where in caught.value.message
    assert caught.value.available[0] == nearest
    assert cfg.to_dict() == config().to_dict()


def test_the_fix_can_be_copied() -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides(config(), {'model.terms.loss_sof.weight': 0}, '--cfg-options')
    assert caught.value.fix == 'model.terms.loss_soft.weight=0'


@pytest.mark.parametrize(
    'options',
    [
        {'model.terms.loss_new.type': 'AttentionKD', 'model.terms.loss_new.weight': 2},
        {'model.terms.loss_soft.schedule.stop_epoch': 3},
        {'optim_wrapper.clip_grad.max_norm': 10},
        {'default_hooks.teacher_check.num_images': 8},
        {'custom_hooks.0.momentum': 0.1},
        {'model.student.test_cfg.score_thr': 0.1},
        {'randomness.seed': 1},
    ],
)
def test_new_keys_and_whole_new_parts_are_allowed(
    options: dict[str, Any], capsys: pytest.CaptureFixture
) -> None:
    cfg = config()
    apply_overrides(cfg, options, '--cfg-options')
    assert cfg.to_dict() != config().to_dict()
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize(
    ('key', 'known'),
    [
        ('train_cfg.max_epoch', 'train_cfg.max_epochs'),
        ('optim_wrapper.optimzer.lr', 'optim_wrapper.optimizer'),
    ],
)
def test_a_new_key_that_resembles_a_known_one_is_told(
    key: str, known: str, capsys: pytest.CaptureFixture
) -> None:
    apply_overrides(config(), {key: 1}, '--cfg-options')
    assert f'{key} is a new key; the config has {known}\n' in capsys.readouterr().out
