"""The plain config of the student: stock mmdet needs nothing of this package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

import hook_runs
import tiny
from mkd_det.training.runtime import prepare_config
from mkd_det.training.student_config import student_config


@pytest.fixture
def cfg(tmp_path: Path) -> Any:
    return hook_runs.distill_cfg(tmp_path, images=2)


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


def test_modules_that_import_this_package_are_not_imported(
    cfg: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / 'their_loss.py').write_text('from mkd_det.losses import base\n')
    (tmp_path / 'their_backbone.py').write_text('import torch\n')
    monkeypatch.syspath_prepend(tmp_path)
    cfg.custom_imports = dict(imports=['mkd_det', 'their_loss', 'their_backbone'])
    assert student_config(cfg).custom_imports.imports == ['their_backbone']
    assert 'their_loss' not in sys.modules, 'it is read, not run'


def test_a_student_of_this_package_keeps_the_import(cfg: Any) -> None:
    # A model that lives in this package cannot be built without it.
    cfg.model.student = dict(type='Distiller', student=cfg.model.student)
    cfg.custom_imports = dict(imports=['mkd_det'])
    assert student_config(cfg).custom_imports.imports == ['mkd_det']


def test_every_key_of_a_config_is_kept_except_ours(cfg: Any) -> None:
    cfg.recipe = 'mkd_det::_base_/recipes/mkd_dense.py'
    cfg.auto_scale_lr = dict(enable=False, base_batch_size=16)
    plain = student_config(cfg)
    assert 'recipe' not in plain
    assert plain.auto_scale_lr.base_batch_size == 16
    assert 'mkd_det' not in str(plain.to_dict())


def test_parts_of_a_base_of_this_package_lose_its_scope(tmp_path: Path) -> None:
    """mmengine marks these parts with the scope `mkd_det`, which stock mmdet lacks."""
    (tmp_path / 'mine.py').write_text(
        "_base_ = ['mkd_det::bccd/gfl_mkd_r18-w64_r18-w16_bccd.py']\n"
    )
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.val_dataloader.dataset._scope_ == 'mkd_det'
    plain = student_config(cfg)
    assert 'mkd_det' not in plain.pretty_text
    assert plain.val_dataloader.dataset.type == 'XMLDataset'
