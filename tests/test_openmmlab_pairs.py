"""Pairs of mmpretrain's classifiers and mmseg's segmentors, with stock configs.

The packages are an optional extra: `pip install -e '.[openmmlab]'`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import PixelData

from mkd_det.config_files.reading import load_config
from mkd_det.errors import HeadKindError, TapSilentError, TeacherClassesError
from mkd_det.training.runtime import build_model

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
CLASSIFIERS = sorted((CONFIGS / 'mmpretrain').glob('*.py'))
SEGMENTORS = sorted((CONFIGS / 'mmseg').glob('*.py'))
SIDE = 64


@pytest.fixture
def mmpretrain() -> Any:
    return pytest.importorskip(
        'mmpretrain.structures', reason='needs mmpretrain: the extra openmmlab'
    )


@pytest.fixture
def mmseg() -> Any:
    return pytest.importorskip(
        'mmseg.structures', reason='needs mmseg: the extra openmmlab'
    )


def config(file: Path) -> Any:
    """A config with nothing to download, for small images on a CPU."""
    cfg = load_config(str(file))
    cfg.model.probe_size = SIDE
    student = cfg.model.student
    for key in ('pretrained', 'init_cfg'):
        student.pop(key, None)
        student.backbone.pop(key, None)
    if 'data_preprocessor' in student:
        student.data_preprocessor.size = (SIDE, SIDE)
    cfg.model.teachers.t.checkpoint = None
    return cfg


def images(count: int = 2) -> list[torch.Tensor]:
    shape = (count, 3, SIDE, SIDE)
    return list(torch.randint(0, 255, shape, dtype=torch.uint8))


def step(cfg: Any, samples: list[Any]) -> dict[str, float]:
    """Run one step of training; return its losses."""
    torch.manual_seed(0)
    model = revert_sync_batchnorm(build_model(cfg)).train()
    batch = dict(inputs=images(len(samples)), data_samples=samples)
    losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    total, log = model.parse_losses(losses)
    total.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None]
    assert not silent and torch.isfinite(total)
    assert set(cfg.model.terms) <= set(log)
    return {name: float(value.detach()) for name, value in log.items()}


def segmented(mmseg: Any) -> list[Any]:
    shape = dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE))
    masks = torch.randint(0, 19, (2, 1, SIDE, SIDE))
    return [
        mmseg.SegDataSample(gt_sem_seg=PixelData(data=mask), metainfo=shape)
        for mask in masks
    ]


@pytest.mark.parametrize('file', CLASSIFIERS, ids=lambda file: file.stem)
def test_a_pair_of_classifiers_takes_a_step(file: Path, mmpretrain: Any) -> None:
    samples = [mmpretrain.DataSample().set_gt_label(label) for label in (3, 7)]
    losses = step(config(file), samples)
    assert losses['loss_soft'] > 0 and losses['loss_attention'] > 0


@pytest.mark.parametrize('file', SEGMENTORS, ids=lambda file: file.stem)
def test_a_pair_of_segmentors_takes_a_step(file: Path, mmseg: Any) -> None:
    losses = step(config(file), segmented(mmseg))
    assert losses['loss_soft'] > 0 and losses['loss_channel'] > 0
    assert losses['decode.loss_ce'] > 0


@pytest.mark.parametrize('file', SEGMENTORS, ids=lambda file: file.stem)
def test_a_segmentor_teaches_itself_nothing(file: Path, mmseg: Any) -> None:
    logits = torch.randn(2, 19, 8, 8)
    for term in build_model(config(file)).plan.terms.values():
        assert float(term.loss([logits], [logits])) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('file', SEGMENTORS, ids=lambda file: file.stem)
def test_the_whole_decode_head_is_refused_and_its_children_named(
    file: Path, mmseg: Any
) -> None:
    cfg = config(file)
    cfg.model.taps.logits = 'decode_head'
    with pytest.raises(TapSilentError) as caught:
        build_model(cfg)
    assert 'conv_seg' in str(caught.value)


@pytest.mark.parametrize('file', SEGMENTORS, ids=lambda file: file.stem)
def test_independent_classes_do_not_meet_exclusive_ones(file: Path, mmseg: Any) -> None:
    cfg = config(file)
    assert build_model(cfg).plan.terms['loss_soft'].loss.classes is None
    loss = dict(type='mmseg.CrossEntropyLoss', use_sigmoid=True)
    cfg.model.student.decode_head.loss_decode = loss
    with pytest.raises(HeadKindError, match='different activations'):
        build_model(cfg)


@pytest.mark.parametrize('file', SEGMENTORS, ids=lambda file: file.stem)
def test_other_classes_are_refused_before_the_first_step(
    file: Path, mmseg: Any
) -> None:
    cfg = config(file)
    cfg.model.student.decode_head.num_classes = 5
    with pytest.raises(TeacherClassesError, match='numbers of classes') as caught:
        build_model(cfg)
    assert 'class_map' in caught.value.fix


def test_a_package_that_is_not_there_is_told_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmengine.config import config as mmengine_config

    from mkd_det.errors import ConfigError

    monkeypatch.setattr(mmengine_config, 'is_installed', lambda package: False)
    file = tmp_path / 'pair.py'
    file.write_text("_base_ = ['mmseg::pspnet/x.py']\n")
    with pytest.raises(ConfigError) as caught:
        load_config(str(file))
    assert "pip install 'mkd_det[openmmlab]'" in caught.value.fix
