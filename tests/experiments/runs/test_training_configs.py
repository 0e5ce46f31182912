"""Configs of trainings: their length, and whether a result is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

import tiny_images
from mkd_det.errors import ConfigError
from mkd_det.experiments.runs.training_configs import (
    adapt_hooks_to_iterations,
    check_results_are_kept,
    limit_checkpoints,
    make_training_run,
    training_budget,
    write_config,
)


def config(**more: Any) -> Config:
    return Config(dict(train_cfg=dict(max_epochs=3), **more))


def test_budgets_in_epochs_and_iterations() -> None:
    assert training_budget(config(), 'a') == (3, True)
    cfg = Config(dict(train_cfg=dict(max_iters=9)))
    assert training_budget(cfg, 'a') == (9, False)
    adapt_hooks_to_iterations(cfg)
    assert cfg.default_hooks.checkpoint == dict(type='CheckpointHook', by_epoch=False)
    assert cfg.default_hooks.logger.log_metric_by_epoch is False
    with pytest.raises(ConfigError, match='a: .*how long it trains'):
        training_budget(Config(dict(train_cfg=dict())), 'a')


@pytest.mark.parametrize(
    ('hooks', 'kept'),
    [
        (None, dict(type='CheckpointHook', interval=1, max_keep_ckpts=2)),
        (dict(checkpoint=dict(type='X')), dict(type='X', max_keep_ckpts=2)),
        (dict(checkpoint=dict(max_keep_ckpts=-1)), dict(max_keep_ckpts=-1)),
        (dict(checkpoint=None), None),
    ],
)
def test_two_checkpoints_are_kept_unless_the_config_says_otherwise(
    hooks: dict | None, kept: dict | None
) -> None:
    cfg = config(**({} if hooks is None else dict(default_hooks=hooks)))
    limit_checkpoints(cfg)
    assert cfg.default_hooks.checkpoint == kept


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(visualizer=dict(type='Visualizer')), 'scalars.json'),
        (dict(default_hooks=dict(checkpoint=None)), 'checkpoint hook'),
        (dict(default_hooks=dict(logger=None)), 'logger hook'),
        (dict(default_hooks=dict(checkpoint=dict(save_last=False))), 'last checkpoint'),
        (dict(default_hooks=dict(checkpoint=dict(out_dir='x'))), 'last checkpoint'),
        (dict(train_cfg=dict(max_epochs=3, val_begin=4)), 'never validated'),
    ],
)
def test_a_training_that_leaves_no_result_is_refused(
    settings: dict, message: str
) -> None:
    check_results_are_kept(config(), 'a')
    with pytest.raises(ConfigError, match=f'a: .*{message}') as caught:
        check_results_are_kept(Config({**config().to_dict(), **settings}), 'a')
    assert caught.value.fix


def test_a_run_of_a_config(tmp_path: Path) -> None:
    data = tiny_images.write_folder(tmp_path / 'data', 4)
    cfg = tiny_images.runner_cfg(tiny_images.classifier(), data, tmp_path, epochs=3)
    file = tmp_path / 'a.py'
    write_config(file, cfg)
    written = file.stat().st_mtime_ns
    write_config(file, cfg)
    assert file.stat().st_mtime_ns == written  # left as it is
    run = make_training_run(cfg, file, tmp_path, 'a', title='a', settings={})
    assert (run.budget, run.iterations, run.by_epoch) == (3, 6, True)
    assert run.config == str(file) and run.checkpoint.name == 'epoch_3.pth'
