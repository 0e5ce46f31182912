"""Every kind of mask head of mmdet's two-stage detectors is proved, or refused."""

from __future__ import annotations

from copy import deepcopy
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
from mkd_det.heads.proofs import masks as mask_proof
from mkd_det.heads.readers import masks
from mkd_det.heads.readers.masks import check_mask_heads, knows_mask_heads

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
PROVED = [
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco',
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco',
    'ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco',
    'groie/mask-rcnn_r50_fpn_groie_1x_coco',
]
# What is not a mask head of its own, and what says so.
REFUSED = {
    'mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco': 'no mask head',
    'point_rend/point-rend_r50-caffe_fpn_ms-1x_coco': 'no mask head',
    'htc/htc_r50_fpn_1x_coco': 'no mask head',
    'scnet/scnet_r50_fpn_1x_coco': 'no mask head',
    'queryinst/queryinst_r50_fpn_1x_coco': 'no mask head',
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco': 'no mask head',
}


class Detector(nn.Module):
    """The second stage of a detector, with narrow mask heads."""

    def __init__(self, name: str) -> None:
        super().__init__()
        init_default_scope('mmdet')
        model = Config.fromfile(str(CONFIGS / f'{name}.py')).model
        cfg = deepcopy(model.roi_head)
        given = (model.get('train_cfg') or {}).get('rcnn')
        cfg.update(train_cfg=given, test_cfg=(model.get('test_cfg') or {}).get('rcnn'))
        heads = cfg.get('mask_head', [])
        for head in heads if isinstance(heads, list) else [heads]:
            if 'conv_out_channels' in head and head.type == 'FCNMaskHead':
                head.conv_out_channels = 16
        torch.manual_seed(1)
        self.roi_head: Any = MODELS.build(cfg)


@pytest.mark.parametrize('name', PROVED)
def test_masks_are_read_as_they_are_predicted(name: str) -> None:
    model = Detector(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    check_mask_heads(model, 'teacher')
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize('name', REFUSED)
def test_other_masks_are_refused(name: str) -> None:
    model = Detector(name)
    assert not knows_mask_heads(model)
    with pytest.raises(HeadKindError, match=REFUSED[name]):
        check_mask_heads(model, 'teacher')


@pytest.mark.parametrize('name', PROVED[:2])
def test_masks_that_are_read_otherwise_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = masks.masks_of_regions

    def shifted(*given: Any) -> Tensor:
        return plain(*given) + 0.1

    monkeypatch.setattr(masks, 'masks_of_regions', shifted)
    with pytest.raises(HeadKindError, match='not read as the model predicts them'):
        mask_proof.prove_masks(Detector(name), 'teacher')


def test_a_mask_head_with_a_prediction_of_its_own_is_refused() -> None:
    """It predicts the opposite of what it is trained for."""
    model = Detector(PROVED[0])
    head = type(model.roi_head.mask_head)

    class Negative(head):  # type: ignore
        def predict_by_feat(self, mask_preds: Any, *args: Any, **kwargs: Any) -> Any:
            negative = [-one for one in mask_preds]
            return super().predict_by_feat(negative, *args, **kwargs)

    model.roi_head.mask_head.__class__ = Negative
    with pytest.raises(HeadKindError, match='not read as'):
        check_mask_heads(model, 'teacher')


def test_a_mask_head_that_trains_otherwise_is_refused() -> None:
    model = Detector(PROVED[0])
    head = type(model.roi_head.mask_head)

    class Doubled(head):  # type: ignore
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (2 if self.training else 1)

    model.roi_head.mask_head.__class__ = Doubled
    with pytest.raises(HeadKindError, match='otherwise in train mode'):
        check_mask_heads(model, 'teacher')
