"""Settings that a model reads late are tried before the work dir is made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule, Sequential

import tiny
from mkd_det.errors import ConfigError
from mkd_det.preflight.model_settings import check_initializers, check_test_settings


def test_initializers_that_mmengine_takes_pass_and_change_nothing() -> None:
    cfg = tiny.gfl()
    override = dict(type='Normal', name='gfl_cls', std=0.01, bias_prob=0.01)
    cfg['bbox_head']['init_cfg'] = [
        dict(type='Normal', layer='Conv2d', std=0.01, override=override),
        dict(type='Pretrained', checkpoint='nowhere.pth', prefix='bbox_head.'),
    ]
    model = tiny.build(tiny.gfl())
    model.bbox_head.init_cfg = cfg['bbox_head']['init_cfg']
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(())
    torch.manual_seed(3)
    check_initializers(model)
    assert torch.rand(()) == expected
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_files_of_weights_are_not_read() -> None:
    """That of PVT has no type; the part around it initialises in its own way."""

    class Backbone(BaseModule):
        def init_weights(self) -> None:
            if self.init_cfg:
                raise FileNotFoundError(self.init_cfg)

    class Around(BaseModule):
        def init_weights(self) -> None:
            self.part.init_weights()

    model = Around(init_cfg=dict(type='Normal', override=dict(name='gone')))
    model.part = Backbone(init_cfg=dict(checkpoint='nowhere.pth'))
    check_initializers(model)


def test_what_mmengine_does_not_initialise_is_not_tried() -> None:
    """It calls `init_weights` of children that have one, and of theirs."""
    failing = dict(type='Normal', override=dict(name='gone'))
    model = BaseModule()
    model.part = torch.nn.Sequential(BaseModule(init_cfg=failing))
    check_initializers(model)
    model.init_weights()
    model.part = Sequential(BaseModule(init_cfg=failing))
    with pytest.raises(ConfigError, match='init_cfg of part.0'):
        check_initializers(model)


@pytest.mark.parametrize(
    ('given', 'word'),
    [
        (3, 'must be a dict'),
        (['Xavier'], 'must be a dict'),
        (dict(type='PretrainedInit', checkpoint='x'), 'available: Pretrained'),
        (dict(type='Normal', layer='Conv2d', stdd=1), "without 'stdd'"),
        (dict(type='Normal', override=dict(name='nope')), 'init_cfg of neck'),
    ],
)
@pytest.mark.parametrize('wrapped', [False, True])
def test_an_initializer_that_fails_is_refused(
    given: Any, word: str, wrapped: bool
) -> None:
    model = tiny.build(
        tiny.distiller(tiny.gfl(), tiny.gfl()) if wrapped else tiny.gfl()
    )
    getattr(model, 'student', model).neck.init_cfg = given
    with pytest.raises(ConfigError) as caught:
        check_initializers(model)
    assert word in str(caught.value) and 'init_cfg of neck' in str(caught.value)


def test_values_of_test_cfg_are_tried() -> None:
    for cfg in (tiny.gfl(), tiny.cascade_mask_rcnn(), tiny.detr()):
        check_test_settings(Config(dict(model=cfg)).model)
    for change, word in (
        (dict(score_thr='x'), 'student.test_cfg: score_thr must be a number'),
        (dict(max_per_img=[1]), 'max_per_img'),
        (
            dict(nms=dict(type='nms', iou_threshold='0.6')),
            'test_cfg.nms: iou_threshold',
        ),
        (dict(nms=dict(type='sotf_nms')), 'available: soft_nms'),
    ):
        student = tiny.gfl()
        student['test_cfg'].update(change)
        with pytest.raises(ConfigError) as caught:
            check_test_settings(dict(type='Distiller', student=student))
        assert word in str(caught.value)
