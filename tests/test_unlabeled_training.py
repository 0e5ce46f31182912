"""A whole training on labelled and unlabelled images; resumed, it is the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

import tiny
from mkd_det.run import train
from tooling import distiller_cfg, student_cfg

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(96, 64), keep_ratio=True),
    dict(type='PackDetInputs'),
]


def config(root: Path, work_dir: Path, val: bool = False, **distill: Any) -> Config:
    model = distiller_cfg(None, **distill)
    cfg = tiny.runner_cfg(model, root, work_dir, val=val)
    labelled = cfg.train_dataloader.dataset.to_dict()
    cfg.train_dataloader = dict(
        batch_size=4,
        num_workers=0,
        sampler=dict(type='MultiSourceSampler', batch_size=4, source_ratio=[1, 3]),
        dataset=dict(
            type='ConcatDataset',
            ignore_keys=['classes', 'palette'],
            datasets=[
                labelled,
                dict(
                    type='UnlabeledImages', images=str(root / 'more'), pipeline=PIPELINE
                ),
            ],
        ),
    )
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=4)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
    cfg.default_hooks.teacher_check = None
    cfg.custom_imports = dict(imports=['mkd_det'])
    cfg.launcher = 'none'
    return cfg


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tiny.write_coco(tmp_path / 'data', images=4)
    other = tiny.write_coco(tmp_path / 'other', images=5, seed=1)
    shutil.copytree(other / 'images', root / 'more')
    return root


def weights(work_dir: Path) -> dict[str, torch.Tensor]:
    path = work_dir / 'iter_4.pth'
    return torch.load(path, weights_only=False)['state_dict']


def test_resume_gives_the_same_weights(root: Path, tmp_path: Path) -> None:
    train(config(root, tmp_path / 'whole'))
    cut = config(root, tmp_path / 'cut')
    cut.train_cfg.max_iters = 2
    train(cut)
    again = config(root, tmp_path / 'cut')
    again.resume = True
    train(again)
    whole, resumed = weights(tmp_path / 'whole'), weights(tmp_path / 'cut')
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def test_no_labels_at_all(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Hooks that compare terms with the task find none, and say nothing.

    The names of the classes, which no training data has, are those of the val data.
    """
    cfg = config(root, tmp_path / 'run', val=True, task_weight=0)
    cfg.optim_wrapper.clip_grad = dict(max_norm=1e-3)
    cfg.custom_hooks = [dict(type='GradientShareHook', interval=1)]
    cfg.train_dataloader = dict(
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=cfg.train_dataloader.dataset.datasets[1],
    )
    train(cfg)
    said = capfd.readouterr()
    assert 'share' not in said.out + said.err and 'clipping' not in said.out + said.err
    for name in 'iter_4.pth', 'student_last.pth':
        meta = torch.load(tmp_path / 'run' / name, weights_only=False)['meta']
        assert tuple(meta['dataset_meta']['classes']) == tiny.CLASSES
    trained = weights(tmp_path / 'run')
    initial = tiny.build(student_cfg()).state_dict()
    assert all(torch.isfinite(value).all() for value in trained.values())
    for part in ('backbone', 'neck', 'bbox_head'):
        moved = [k for k in initial if k.startswith(part)]
        assert any(not torch.equal(trained[k], initial[k]) for k in moved)
