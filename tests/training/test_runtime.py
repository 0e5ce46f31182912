"""Configs before and after: what a runner gets, what a stock mmdet gets."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

import hook_runs
import tiny
from mkd_det.errors import ConfigError
from mkd_det.hooks.safe_checkpoint_hook import SafeCheckpointHook, use_safe_checkpoint_hook
from mkd_det.training.runtime import prepare_config, student_config

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


def test_a_plain_config_comes_back_as_given(tmp_path: Path) -> None:
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


def test_hooks_that_the_config_names_stay_as_they_are(cfg: Any) -> None:
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


def test_the_students_config_is_the_plain_one(cfg: Any, tmp_path: Path) -> None:
    data = tmp_path / 'coco'
    plain = tiny.runner_cfg(cfg.model.student.to_dict(), data, tmp_path / 'run')
    flip = dict(type='RandomFlip', prob=0.5)
    plain.train_dataloader.dataset.pipeline.insert(-1, flip)
    plain.pop('work_dir')
    cfg.custom_imports = dict(imports=['mkd_det', 'mkd_det.data'])
    cfg.custom_hooks = [dict(type='DiceHook')]
    cfg.load_from = 'elsewhere.pth'
    back = student_config(prepare_config(cfg)).to_dict()
    assert back.pop('custom_hooks') == []
    assert back == plain.to_dict()


def test_the_distillers_preprocessor_goes_to_the_student(cfg: Any) -> None:
    own = cfg.model.student.pop('data_preprocessor')
    cfg.model.data_preprocessor = own
    assert student_config(cfg).model.data_preprocessor == own


def test_modules_that_build_on_us_are_not_imported(
    cfg: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / 'their_loss.py').write_text('from mkd_det.losses import base\n')
    (tmp_path / 'their_backbone.py').write_text('import torch\n')
    monkeypatch.syspath_prepend(tmp_path)
    cfg.custom_imports = dict(imports=['mkd_det', 'their_loss', 'their_backbone'])
    assert student_config(cfg).custom_imports.imports == ['their_backbone']
    assert 'their_loss' not in sys.modules, 'it is read, not run'


def test_a_student_of_ours_keeps_the_import(cfg: Any) -> None:
    # A model that lives in this package cannot be built without it.
    cfg.model.student = dict(type='Distiller', student=cfg.model.student)
    cfg.custom_imports = dict(imports=['mkd_det'])
    assert student_config(cfg).custom_imports.imports == ['mkd_det']


def test_every_key_of_a_config_survives_but_ours(cfg: Any) -> None:
    cfg.recipe = 'mkd_det::_base_/recipes/mkd_dense.py'
    cfg.auto_scale_lr = dict(enable=False, base_batch_size=16)
    plain = student_config(cfg)
    assert 'recipe' not in plain
    assert plain.auto_scale_lr.base_batch_size == 16
    assert 'mkd_det' not in str(plain.to_dict())


def test_what_comes_from_a_base_of_ours_is_stock_mmdets(tmp_path: Path) -> None:
    """mmengine marks it with our scope, which nobody knows where we are not."""
    (tmp_path / 'mine.py').write_text(
        "_base_ = ['mkd_det::bccd/gfl_mkd_r18-w64_r18-w16_bccd.py']\n"
    )
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.val_dataloader.dataset._scope_ == 'mkd_det'
    plain = student_config(cfg)
    assert 'mkd_det' not in plain.pretty_text
    assert plain.val_dataloader.dataset.type == 'XMLDataset'


def test_on_a_gpu_batches_are_copied_while_it_computes(
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
    with pytest.raises(ConfigError, match='does not know the layers'):
        prepare_config(cfg)
