"""A pipeline that a hook switches to is tried before the training."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.datasets.transforms import Mosaic
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

import tiny
from mkd_det.data import check_loaders
from mkd_det.errors import ConfigError
from mkd_det.preflight.checks import check_before_start
from mkd_det.preflight.pipeline_switches import check_pipeline_switches


class Headed(nn.Module):
    """A model that has a head, and another that has none."""

    bbox_head = None


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_coco(tmp_path_factory.mktemp('switches'), images=4)


@pytest.fixture
def cfg(data: Path, tmp_path: Path) -> Config:
    return tiny.runner_cfg(tiny.gfl(), data, tmp_path / 'run', epochs=300)


def mosaic(cfg: Config, **changes: Any) -> Config:
    """YOLOX's data: pairs of images are mixed in a wrapper."""
    inner = deepcopy(cfg.train_dataloader.dataset)
    *loading, _, pack = inner.pipeline
    inner.pipeline = loading
    resize = dict(type='Resize', scale=(96, 64), keep_ratio=False)
    mixed = [dict(type='Mosaic', img_scale=(96, 64)), resize, pack]
    cfg.train_dataloader.dataset = dict(
        type='MultiImageMixDataset', dataset=inner, pipeline=mixed, **changes
    )
    return cfg


def check(cfg: Config, hook: dict[str, Any], model: nn.Module | None = None) -> Any:
    """Check a training with a hook; return the built data set."""
    cfg.custom_hooks = [hook]
    dataset = check_loaders(cfg, splits=('train',))['train'].dataset
    check_pipeline_switches(cfg, model or Headed(), dataset)
    return dataset


def refuse(cfg: Config, hook: dict[str, Any], model: nn.Module | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        check(cfg, hook, model)
    return str(caught.value)


def switch(pipeline: list, **more: Any) -> dict[str, Any]:
    return dict(
        type='PipelineSwitchHook', switch_epoch=280, switch_pipeline=pipeline, **more
    )


def test_a_second_pipeline_that_fits_passes(cfg: Config) -> None:
    first = cfg.train_dataloader.dataset.pipeline
    flipped = [*first[:-1], dict(type='RandomFlip', prob=0.5), first[-1]]
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(()), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    dataset = check(cfg, switch(flipped))
    assert (torch.rand(()), np.random.rand()) == expected
    assert len(dataset.pipeline.transforms) == len(first)


def test_a_second_pipeline_that_does_not_fit_is_refused(cfg: Config) -> None:
    first = cfg.train_dataloader.dataset.pipeline
    assert 'LoadImg' in refuse(cfg, switch([dict(type='LoadImg')]))
    assert 'no bboxes' in refuse(cfg, switch([first[0], *first[2:]]))
    assert 'no inputs' in refuse(cfg, switch(first[:-1]))
    assert 'switch_pipeline: a sample has' in refuse(cfg, switch(first[:-1]))
    assert 'switch_epoch' in refuse(cfg, {**switch(first), 'switch_epoch': '280'})


def test_a_transform_that_fails_is_named_with_what_it_lacks(cfg: Config) -> None:
    first = cfg.train_dataloader.dataset.pipeline
    # Masks, which these annotations do not have.
    masks = [first[0], dict(first[1], with_mask=True), *first[2:]]
    message = refuse(cfg, switch(masks))
    assert 'PipelineSwitchHook.switch_pipeline: LoadAnnotations fails' in message
    assert "KeyError 'mask', " in message and ': segmentation' not in message
    assert "before LoadAnnotations, a transform that yields 'mask'" in message
    # A bare `assert`.
    mixed = [*first[:2], dict(type='Mosaic', img_scale=(96, 64)), *first[2:]]
    message = refuse(cfg, switch(mixed))
    assert 'Mosaic fails for a sample' in message
    assert "assert 'mix_results' in results" in message
    assert "dict(type='MultiImageMixDataset'" in message


def test_a_wrapper_would_not_use_a_second_pipeline(cfg: Config) -> None:
    first = cfg.train_dataloader.dataset.pipeline
    whole = cfg.train_dataloader.dataset
    for kind in ('RepeatDataset', 'MultiImageMixDataset'):
        changed = deepcopy(cfg)
        changed.train_dataloader.dataset = dict(type='RepeatDataset', times=2)
        changed.train_dataloader.dataset.dataset = whole
        if kind == 'MultiImageMixDataset':
            changed = mosaic(deepcopy(cfg))
        assert f'{kind} would not use' in refuse(changed, switch(first))


def test_pipelines_of_other_hooks_are_tried(cfg: Config) -> None:
    class Own(Hook):
        def __init__(self, new_train_pipeline: list) -> None:
            pass

    HOOKS.register_module(module=Own, force=True)
    first = cfg.train_dataloader.dataset.pipeline
    check(cfg, dict(type='Own', new_train_pipeline=first))
    own = dict(type=Own, new_train_pipeline=first[1:])
    assert 'Own.new_train_pipeline: Resize fails' in refuse(cfg, own)


YOLOX = dict(type='YOLOXModeSwitchHook', num_last_epochs=15)


def test_data_without_mosaic_is_tried(cfg: Config) -> None:
    dataset = check(mosaic(cfg), dict(YOLOX))
    assert dataset._skip_type_keys is None
    # `Mosaic` makes the size that the next transform expects.
    odd = dict(type='RandomCrop', crop_size=(100, 160), allow_negative_crop=False)
    cfg.train_dataloader.dataset.pipeline.insert(1, odd)
    cfg.train_dataloader.dataset.pipeline.insert(2, dict(type='YOLOXHSVRandomAugx'))
    assert 'YOLOXHSVRandomAugx' in refuse(cfg, dict(YOLOX))
    del cfg.train_dataloader.dataset.pipeline[2]
    skipped = dict(YOLOX, skip_type_keys=['Mosaic', 'PackDetInputs'])
    assert 'has no inputs' in refuse(cfg, skipped)


def test_names_that_skip_nothing_are_refused(cfg: Config) -> None:
    changed = mosaic(deepcopy(cfg))
    message = refuse(changed, dict(YOLOX, skip_type_keys=('Mosaic', 'Resise')))
    assert "YOLOXModeSwitchHook.skip_type_keys: the pipeline has no 'Resise'" in message
    assert 'available: Resize' in message and "skip_type_keys=('Mosaic',)" in message
    # Of the default's names, some may be missing; not all.
    check(deepcopy(changed), dict(YOLOX, skip_type_keys=('Mosaic', 'MixUp')))
    del changed.train_dataloader.dataset.pipeline[0]
    assert "no 'Mosaic' to skip" in refuse(changed, dict(YOLOX))
    own = mosaic(deepcopy(cfg), skip_type_keys=('Mosaik',))
    assert 'MultiImageMixDataset.skip_type_keys' in refuse(own, dict(YOLOX))


def test_data_and_model_must_be_yolox_like(cfg: Config) -> None:
    assert 'CocoDataset has no transforms' in refuse(deepcopy(cfg), dict(YOLOX))
    assert 'no bbox_head' in refuse(mosaic(cfg), dict(YOLOX), nn.Linear(1, 1))
    student = tiny.build(tiny.distiller(tiny.gfl(), tiny.gfl()))
    check(cfg, dict(YOLOX), student)


def test_classes_are_not_skipped_by_name(cfg: Config) -> None:
    for kind in (Mosaic, 'mmdet.datasets.transforms.Mosaic'):
        changed = mosaic(deepcopy(cfg))
        changed.train_dataloader.dataset.pipeline[0].type = kind
        assert "type='Mosaic'" in refuse(changed, dict(YOLOX))


def test_nothing_is_written_before(cfg: Config, tmp_path: Path) -> None:
    cfg.custom_hooks = [switch([dict(type='LoadImg')])]
    with pytest.raises(ConfigError):
        check_before_start(cfg)
    assert not (tmp_path / 'run').exists()
