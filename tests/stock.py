"""Models of mmdet's own configs with narrow layers, for tests of many families."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import mmdet
from mmengine.config import Config

import tiny

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'


def model_of(name: str) -> dict[str, Any]:
    """The model of a config of mmdet, as it is but for weights to start from."""
    model = Config.fromfile(str(CONFIGS / f'{name}.py')).model
    model.backbone.init_cfg = None
    return model.to_dict()


def narrow_resnet(model: dict[str, Any], base: int = 4) -> dict[str, Any]:
    """Make the ResNet of a model, and what its neck gets, narrow."""
    backbone, neck = model['backbone'], model.get('neck')
    given = neck['in_channels'] if neck else None
    backbone.update(depth=18, base_channels=base, init_cfg=None, frozen_stages=-1)
    backbone['norm_cfg'] = dict(type='BN', requires_grad=True)
    backbone['norm_eval'] = False
    widths = [base, base * 2, base * 4, base * 8]
    if isinstance(given, list):
        neck['in_channels'] = widths[-len(given) :]
    elif given:
        neck['in_channels'] = widths[-1]
    return model


def rtmdet_ins(base: int = 4, width: int = 8) -> dict[str, Any]:
    """RTMDet-Ins with a narrow backbone."""
    model = deepcopy(tiny.rtmdet(base, width))
    head = model_of('rtmdet/rtmdet-ins_s_8xb32-300e_coco')['bbox_head']
    head.update(num_classes=3, in_channels=width, feat_channels=width, stacked_convs=2)
    for key in ('anchor_generator', 'norm_cfg'):
        head[key] = model['bbox_head'].get(key, head.get(key))
    model['bbox_head'] = head
    return model


def yolov3() -> dict[str, Any]:
    """YOLOv3 with MobileNetV2 and narrow layers."""
    model = model_of('yolo/yolov3_mobilenetv2_8xb24-ms-416-300e_coco')
    model['backbone'].update(widen_factor=0.25)
    model['neck'].update(in_channels=[80, 24, 8], out_channels=[16, 16, 16])
    model['bbox_head'].update(
        num_classes=3, in_channels=[16, 16, 16], out_channels=[16, 16, 16]
    )
    return model


def centernet() -> dict[str, Any]:
    """CenterNet with a narrow ResNet."""
    model = narrow_resnet(model_of('centernet/centernet_r18_8xb16-crop512-140e_coco'))
    model['neck'].update(
        num_deconv_filters=[16, 8, 8], num_deconv_kernels=[4, 4, 4], use_dcn=False
    )
    model['bbox_head'].update(num_classes=3, in_channels=8, feat_channels=8)
    return model


def sabl_retinanet(base: int = 4, width: int = 8) -> dict[str, Any]:
    """SABL RetinaNet with narrow layers."""
    model = narrow_resnet(model_of('sabl/sabl-retinanet_r50_fpn_1x_coco'), base)
    model['neck'].update(out_channels=width)
    model['bbox_head'].update(num_classes=3, in_channels=width, feat_channels=width)
    return model


def ga_retinanet(base: int = 4, width: int = 8) -> dict[str, Any]:
    """Guided-Anchoring RetinaNet with narrow layers."""
    model = narrow_resnet(
        model_of('guided_anchoring/ga-retinanet_r50_fpn_1x_coco'), base
    )
    model['neck'].update(out_channels=width)
    model['bbox_head'].update(num_classes=3, in_channels=width, feat_channels=width)
    return model


def swin_retinanet(width: int = 16) -> dict[str, Any]:
    """RetinaNet with a small Swin, whose stages have no names of ResNet."""
    model = deepcopy(tiny.retinanet(4, width))
    model['backbone'] = dict(
        type='SwinTransformer',
        embed_dims=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        out_indices=(1, 2, 3),
        init_cfg=None,
    )
    model['neck'].update(in_channels=[16, 32, 64], start_level=0)
    return model
