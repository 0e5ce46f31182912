"""The config that a distillation runs with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

import hook_runs
import tiny
from mkd_det.errors import ConfigError
from mkd_det.hooks.recovery.safe_checkpoint_hook import (
    SafeCheckpointHook,
    use_safe_checkpoint_hook,
)
from mkd_det.training.runtime import prepare_config

OURS = {
    'ResumeStateHook',
    'TeacherCheckHook',
    'ExportStudentHook',
    'SafeCheckpointHook',
}


@pytest.fixture
def cfg(tmp_path: Path) -> Any:
    return hook_runs.distill_cfg(tmp_path, images=2)


def _types(cfg: Any) -> set[str]:
    return {hook.type for hook in cfg.default_hooks.values() if hook}


def test_a_distillation_gets_our_hooks_and_safe_checkpoints(cfg: Any) -> None:
    before = copy.deepcopy(cfg.to_dict())
    ready = prepare_config(cfg)
    assert _types(ready) >= OURS
    assert ready.default_hooks.checkpoint.interval == 1
    assert cfg.to_dict() == before, 'the config that was given is changed'
    assert prepare_config(ready).to_dict() == ready.to_dict()


def test_a_plain_config_is_returned_unchanged(tmp_path: Path) -> None:
    data = tiny.write_coco(tmp_path / 'coco', images=1)
    plain = tiny.runner_cfg(tiny.gfl(), data, tmp_path)
    assert prepare_config(plain) is plain


def test_a_plain_run_saves_safely_under_a_config_of_stock_mmdet(
    tmp_path: Path,
) -> None:
    data = tiny.write_coco(tmp_path / 'coco', images=1)
    runner = hook_runs.build(tiny.runner_cfg(tiny.gfl(), data, tmp_path), 'plain')
    use_safe_checkpoint_hook(runner)
    assert [type(h) for h in runner.hooks if isinstance(h, CheckpointHook)] == [
        SafeCheckpointHook
    ]
    assert 'SafeCheckpointHook' not in str(runner.cfg)


def test_hooks_of_the_config_are_kept(cfg: Any) -> None:
    cfg.default_hooks.teacher_check = dict(num_images=3)
    cfg.default_hooks.resume_state = None
    cfg.custom_hooks = [dict(type='ExportStudentHook', best=None)]
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=7)
    hooks = prepare_config(cfg).default_hooks
    assert hooks.teacher_check == dict(type='TeacherCheckHook', num_images=3)
    assert hooks.checkpoint == dict(type='SafeCheckpointHook', interval=7)
    assert 'resume_state' not in hooks and 'export_student' not in hooks


def test_no_checkpoints_stay_no_checkpoints(cfg: Any) -> None:
    cfg.default_hooks.checkpoint = None
    assert prepare_config(cfg).default_hooks.checkpoint is None


def test_without_default_hooks_checkpoints_are_safe_too(cfg: Any) -> None:
    cfg.pop('default_hooks')
    checkpoint = prepare_config(cfg).default_hooks.checkpoint
    assert checkpoint == dict(type='SafeCheckpointHook', interval=1)


def test_on_a_gpu_batches_are_copied_asynchronously(
    cfg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = prepare_config(cfg)
    assert 'pin_memory' not in plain.train_dataloader
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    ready = prepare_config(cfg)
    assert ready.train_dataloader.pin_memory is True
    assert ready.model.student.data_preprocessor.non_blocking is True
    cfg.train_dataloader.pin_memory = False
    assert prepare_config(cfg).train_dataloader.pin_memory is False


def test_layer_wise_learning_rates_are_refused() -> None:
    cfg = Config(
        dict(
            model=dict(type='Distiller', student=dict(type='GFL')),
            optim_wrapper=dict(constructor='LearningRateDecayOptimizerConstructor'),
        )
    )
    with pytest.raises(ConfigError) as info:
        prepare_config(cfg)
    assert 'DefaultOptimWrapperConstructor' in info.value.fix
