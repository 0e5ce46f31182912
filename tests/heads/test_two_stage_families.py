"""Every kind of second stage of mmdet is proved, or refused in words.

Second stages are those of mmdet's own configs, with narrow layers.
"""

from __future__ import annotations

import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mkd_det.errors import HeadKindError
from mkd_det.heads.base import find_reader
from mkd_det.heads.proofs.regions import prove_logits
from mkd_det.heads.readers import regions
from mkd_det.heads.readers.regions import RegionReader
from mkd_det.taps import Tap

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
# A config of each family, and whether boxes are read beside classes.
FAMILIES = {
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco': True,
    'faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco': True,
    'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco': True,
    'double_heads/dh-faster-rcnn_r50_fpn_1x_coco': True,
    'dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco': True,
    'grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco': False,
    'groie/faste-rcnn_r50_fpn_groie_1x_coco': True,
    'libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco': True,
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco': True,
    'ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco': True,
    'point_rend/point-rend_r50-caffe_fpn_ms-1x_coco': True,
    'sabl/sabl-cascade-rcnn_r50_fpn_1x_coco': False,
    'sabl/sabl-faster-rcnn_r50_fpn_1x_coco': False,
}
REFUSED = {
    'crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman': 'no box head that needs',
    'htc/htc_r50_fpn_1x_coco': 'no box head that needs',
    'pisa/faster-rcnn_r50_fpn_pisa_1x_coco': 'ScoreHLRSampler runs',
    'queryinst/queryinst_r50_fpn_1x_coco': 'no box head that needs',
    'scnet/scnet_r50_fpn_1x_coco': 'no box head that needs',
    'seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1': 'softmax',
    'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco': 'no box head that needs',
    'tridentnet/tridentnet_r50-caffe_1x_coco': 'no box head that needs',
}
# Of the second stages that mmdet's configs name, those without boxes.
WITHOUT_BOXES = {'BaseRoIHead'}


class Detector(nn.Module):
    """The second stage of a detector."""

    def __init__(self, roi_head: nn.Module) -> None:
        super().__init__()
        self.roi_head = roi_head


@cache
def built(name: str) -> Detector:
    init_default_scope('mmdet')
    model = Config.fromfile(str(CONFIGS / f'{name}.py')).model
    cfg = deepcopy(model.roi_head)
    given = (model.get('train_cfg') or {}).get('rcnn')
    cfg.update(train_cfg=given, test_cfg=(model.get('test_cfg') or {}).get('rcnn'))
    for key in (
        ()
        if name in REFUSED
        else ('mask_roi_extractor', 'mask_head', 'mask_iou_head', 'point_head')
    ):
        cfg.pop(key, None)
    heads = cfg.bbox_head if isinstance(cfg.bbox_head, list) else [cfg.bbox_head]
    for head in heads:
        for key in ('fc_out_channels', 'conv_out_channels'):
            if key in head:
                head[key] = 32
    if cfg.type in ('MaskScoringRoIHead', 'PointRendRoIHead'):
        cfg.type = 'StandardRoIHead'  # which differ in their masks alone
    torch.manual_seed(1)
    return Detector(MODELS.build(cfg)).eval()


def maps_of(model: Any) -> list[Tensor]:
    """Maps like those that the second stage gets of an image of 128x128."""
    extractor = model.roi_head.bbox_roi_extractor
    one = extractor[0] if isinstance(extractor, nn.ModuleList) else extractor
    strides = one.featmap_strides
    return [torch.zeros(1, one.out_channels, 128 // s, 128 // s) for s in strides]


def heads_of(model: Any) -> list[Any]:
    heads = model.roi_head.bbox_head
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


@pytest.mark.parametrize('name', FAMILIES)
def test_a_box_head_is_read_as_it_predicts(name: str) -> None:
    model = built(name)
    tap = Tap(('roi_head.bbox_head',))
    RegionReader.check_tap(model, tap, True, 'tap')
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    for head in heads_of(model):
        kind: Any = find_reader(head)
        read = kind(head).prove(model, head, maps_of(model), 'head')
        assert (read.evaluated.boxes is not None) is FAMILIES[name]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize('name', REFUSED)
def test_a_second_stage_that_is_not_known_is_refused(name: str) -> None:
    model = built(name)
    with pytest.raises(HeadKindError, match=REFUSED[name]) as caught:
        RegionReader.check_tap(model, Tap(('roi_head.bbox_head',)), True, 'tap')
    assert 'neck' in caught.value.fix or 'RandomSampler' in caught.value.fix


def test_every_second_stage_of_mmdet_is_one_of_these() -> None:
    text = ' '.join(file.read_text(errors='ignore') for file in CONFIGS.rglob('*.py'))
    named = set(re.findall(r"type='(\w+RoIHead)'", text))
    cfgs = (Config.fromfile(str(CONFIGS / f'{n}.py')) for n in (*FAMILIES, *REFUSED))
    assert named - WITHOUT_BOXES == {cfg.model.roi_head.type for cfg in cfgs}


@pytest.mark.parametrize('name', list(FAMILIES)[:3])
def test_boxes_that_are_read_otherwise_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = regions.decode_regions
    monkeypatch.setattr(
        regions,
        'decode_regions',
        lambda *given: plain(*given) + 1.0,  # type: ignore
    )
    model = built(name)
    head = heads_of(model)[-1]
    with pytest.raises(HeadKindError, match='boxes are not read as'):
        RegionReader(head).prove(model, head, maps_of(model), 'head')


def test_regions_of_a_cascade_that_are_not_clipped_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(regions, '_clipped', lambda boxes, sizes: boxes)
    model = built('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco')
    head = heads_of(model)[-1]
    with pytest.raises(HeadKindError, match='are not read as'):
        RegionReader(head).prove(model, head, maps_of(model), 'head')


def test_regions_that_a_second_stage_changes_are_those_that_are_read() -> None:
    model = deepcopy(built('faster_rcnn/faster-rcnn_r50_fpn_1x_coco'))

    class Enlarging(type(model.roi_head)):  # type: ignore
        def _bbox_forward(self, x: Any, rois: Tensor) -> Any:
            return super()._bbox_forward(x, rois + rois.new_tensor([0, 0, 0, 8, 8]))

    model.roi_head.__class__ = Enlarging
    (head,) = heads_of(model)
    with pytest.raises(HeadKindError, match='boxes are not read'):
        RegionReader(head).prove(model, head, maps_of(model), 'head')


def test_class_logits_that_a_head_changes_are_refused() -> None:
    model = deepcopy(built('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco'))
    prove_logits(model, 'student')
    head = model.roi_head.bbox_head[1]

    class Sharper(type(head)):  # type: ignore
        def forward(self, x: Tensor) -> Any:
            scores, deltas = super().forward(x)
            return 2 * scores, deltas

    head.__class__ = Sharper
    with pytest.raises(HeadKindError, match='changes what it yields') as caught:
        prove_logits(model, 'student')
    assert 'soft_two_stage' in caught.value.fix
