"""Every kind of dense head of mmdet is proved; read by the wrong reader, refused.

Heads are those of mmdet's own configs, with narrow layers.
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
from mkd_det.heads.readers.dense import DenseReader
from mkd_det.losses.outputs.soft_output import SoftOutputKD
from mkd_det.plan.checks.agreement import check_agreement
from mkd_det.plan.plan import Term
from mkd_det.preflight.model_settings import check_initializers

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
# A config of each family, and the reader of its head.
FAMILIES = {
    'atss/atss_r50_fpn_1x_coco': 'DenseReader',
    'autoassign/autoassign_r50-caffe_fpn_1x_coco': 'AutoAssignReader',
    'boxinst/boxinst_r50_fpn_ms-90k_coco': 'DenseReader',
    'centernet/centernet_r18_8xb16-crop512-140e_coco': 'CenterNetReader',
    'centernet/centernet-update_r50-caffe_fpn_ms-1x_coco': 'CenterNetUpdateReader',
    'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance': 'DenseReader',
    'ddod/ddod_r50_fpn_1x_coco': 'DenseReader',
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco': 'DenseReader',
    'fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco': (
        'DenseReader'
    ),
    'foveabox/fovea_r50_fpn_4xb4-1x_coco': 'FoveaReader',
    'free_anchor/freeanchor_r50_fpn_1x_coco': 'DenseReader',
    'fsaf/fsaf_r50_fpn_1x_coco': 'DenseReader',
    'gfl/gfl_r50_fpn_1x_coco': 'DenseReader',
    'lad/lad_r50-paa-r101_fpn_2xb8_coco_1x': 'DenseReader',
    'ld/ld_r18-gflv1-r101_fpn_1x_coco': 'DenseReader',
    'nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco': 'DenseReader',
    'nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco': 'DenseReader',
    'paa/paa_r50_fpn_1x_coco': 'DenseReader',
    'pisa/retinanet-r50_fpn_pisa_1x_coco': 'DenseReader',
    'pisa/ssd300_pisa_coco': 'DenseReader',
    'reppoints/reppoints-moment_r50_fpn_1x_coco': 'RepPointsReader',
    'reppoints/reppoints-bbox_r50_fpn-gn_head-gn-grid_1x_coco': 'RepPointsReader',
    'retinanet/retinanet_r50_fpn_1x_coco': 'DenseReader',
    'efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco': 'DenseReader',
    'rpn/rpn_r50_fpn_1x_coco': 'DenseReader',
    'rtmdet/rtmdet_l_8xb32-300e_coco': 'DenseReader',
    'rtmdet/rtmdet-ins_l_8xb32-300e_coco': 'DenseReader',
    'sabl/sabl-retinanet_r50_fpn_1x_coco': 'SABLReader',
    'ssd/ssd300_coco': 'DenseReader',
    'tood/tood_r50_fpn_1x_coco': 'TOODReader',
    'tood/tood_r50_fpn_anchor-based_1x_coco': 'TOODReader',
    'vfnet/vfnet_r50_fpn_1x_coco': 'VFNetReader',
    'yolact/yolact_r50_1xb8-55e_coco': 'YOLACTReader',
    'yolo/yolov3_d53_8xb8-320-273e_coco': 'YOLOv3Reader',
    'yolof/yolof_r50-c5_8xb8-1x_coco': 'DenseReader',
    'yolox/yolox_s_8xb8-300e_coco': 'YOLOXReader',
}
# What is wrong where the general reader reads a head that has one of its own.
MISREAD = {
    'centernet/centernet-update_r50-caffe_fpn_ms-1x_coco': 'boxes are read otherwise',
    'foveabox/fovea_r50_fpn_4xb4-1x_coco': 'boxes are not read as',
    'reppoints/reppoints-moment_r50_fpn_1x_coco': '',
    'tood/tood_r50_fpn_1x_coco': '',
    'vfnet/vfnet_r50_fpn_1x_coco': 'boxes are read otherwise in train',
    'yolox/yolox_s_8xb8-300e_coco': '',
}


# Heads that cannot be read, and why.
UNREAD = {
    'guided_anchoring/ga-retinanet_r50_fpn_1x_coco': 'anchors are predicted',
    'guided_anchoring/ga-rpn_r50_fpn_1x_coco': 'anchors are predicted',
    'maskformer/maskformer_r50_ms-16xb1-75e_coco': 'no boxes',
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco': 'no boxes',
    'solo/solo_r50_fpn_1x_coco': 'no boxes',
    'solo/decoupled-solo_r50_fpn_1x_coco': 'no boxes',
    'solo/decoupled-solo-light_r50_fpn_3x_coco': 'no boxes',
    'solov2/solov2_r50_fpn_1x_coco': 'no boxes',
    'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco': 'proposals are learned',
}
# Likewise, of configs that cannot be built here: they need a language model, or are out
# of date (Cascade RPN's). The heads are known by their class.
UNBUILT = {
    'ATSSVLFusionHead': 'words of a prompt',
    'GroundingDINOHead': 'words of a prompt',
    'CascadeRPNHead': 'what the one before it predicts',
}
# Heads of corners are refused, see below; heads of queries have tests of their own.
CORNERS = ('CornerHead', 'CentripetalHead')
QUERIES = (
    *('DETRHead', 'ConditionalDETRHead', 'DABDETRHead', 'DeformableDETRHead'),
    *('DINOHead', 'DDQDETRHead'),
)
# Beside heads of these families, or parts of them; lanes are no boxes.
PARTS = (
    *('BoxInstMaskHead', 'CondInstMaskHead', 'YOLACTProtonet', 'StageCascadeRPNHead'),
    'CLRHead',
)


@cache
def _built(name: str) -> nn.Module:
    init_default_scope('mmdet')
    model = Config.fromfile(str(CONFIGS / f'{name}.py')).model
    names = ('bbox_head', 'rpn_head', 'mask_head', 'panoptic_head')
    cfg = deepcopy(next(model[name] for name in names if model.get(name)))
    train_cfg = model.get('train_cfg') or {}
    test_cfg = model.get('test_cfg') or {}
    cfg.update(
        train_cfg=train_cfg.get('rpn', train_cfg),
        test_cfg=test_cfg.get('rpn', test_cfg),
    )
    for key in ('in_channels', 'feat_channels', 'point_feat_channels'):
        if 'mask' not in name and isinstance(cfg.get(key), int):
            cfg[key] = 32
    torch.manual_seed(1)
    return MODELS.build(cfg)


def head_of(name: str) -> Any:
    """The head of a config of mmdet, with narrow layers."""
    return deepcopy(_built(name))


def maps_of(head: Any) -> list[Tensor]:
    """Maps of the sizes that a head gets of an image of 256x256."""
    given = getattr(head, 'in_channels', 32)
    if isinstance(given, (list, tuple)):
        widths = list(given)
    else:
        generator = getattr(head, 'prior_generator', None) or getattr(
            head, 'square_anchor_generator', None
        )
        levels = 1 if generator is None else len(generator.strides)
        widths = [given] * levels
    torch.manual_seed(2)
    return [torch.randn(1, w, *[max(32 >> i, 3)] * 2) for i, w in enumerate(widths)]


@pytest.mark.parametrize('name', FAMILIES)
def test_a_head_passes_the_checks_of_a_training(name: str) -> None:
    """Some have an `init_weights` of their own, and an `init_cfg` that they inherit."""
    check_initializers(head_of(name))


@pytest.mark.parametrize('name', FAMILIES)
def test_a_head_is_read_as_it_predicts_in_train_and_in_eval_mode(name: str) -> None:
    head = head_of(name)
    kind: Any = find_reader(head)
    assert kind.__name__ == FAMILIES[name]
    maps = maps_of(head)
    before = torch.get_rng_state(), {k: v.clone() for k, v in head.state_dict().items()}
    reader = kind(head)
    read = reader.prove(None, head, maps, 'head')
    # The same head as teacher has nothing to teach.
    soft = Term('soft', {}, SoftOutputKD(activation=reader.activation))
    check_agreement('head', soft, read, (256, 256))
    assert torch.equal(torch.get_rng_state(), before[0])
    for key, value in head.state_dict().items():
        assert torch.equal(value, before[1][key])


@pytest.mark.parametrize('name', UNREAD)
def test_a_head_without_places_is_refused_in_words(name: str) -> None:
    head = head_of(name)
    kind: Any = find_reader(head)
    with pytest.raises(HeadKindError, match=UNREAD[name]) as caught:
        kind(head)
    assert type(head).__name__ in caught.value.message
    assert "fpn='neck'" in caught.value.fix


def test_every_dense_head_of_mmdet_is_proved_or_refused() -> None:
    """No family that the installed mmdet has a config for is left out."""
    init_default_scope('mmdet')
    text = ' '.join(file.read_text(errors='ignore') for file in CONFIGS.rglob('*.py'))
    named = set(re.findall(r"type='(\w+)'", text))
    known = {name: MODELS.module_dict.get(name) for name in named}
    dense = {
        name
        for name, cls in known.items()
        if cls is not None and cls.__module__.startswith('mmdet.models.dense_heads')
    }
    proved = {type(_built(name)).__name__ for name in FAMILIES}
    refused = {type(_built(name)).__name__ for name in UNREAD}
    assert not proved & refused
    told = {*proved, *refused, *UNBUILT, *CORNERS, *QUERIES, *PARTS}
    assert dense - told == set()
    assert told - dense <= {'RTMDetHead', 'FCOSHead'}  # no name that is gone


@pytest.mark.parametrize('name', UNBUILT)
def test_heads_that_need_more_than_images_are_known_by_their_class(name: str) -> None:
    head = nn.Module.__new__(MODELS.get(name))
    kind: Any = find_reader(head)
    with pytest.raises(HeadKindError, match=UNBUILT[name]):
        kind(head)


@pytest.mark.parametrize('name', MISREAD)
def test_what_the_general_reader_would_misread_is_refused(name: str) -> None:
    head = head_of(name)
    with pytest.raises(HeadKindError, match=MISREAD[name]) as caught:
        DenseReader(head).prove(None, head, maps_of(head), 'head')
    assert type(head).__name__ in caught.value.message and caught.value.fix


def test_scores_that_differ_are_told_with_their_place() -> None:
    head = head_of('gfl/gfl_r50_fpn_1x_coco')

    class Shifted(DenseReader):
        def logits(self, head: Any, level: Any) -> Tensor:
            return super().logits(head, level) + 0.1

    with pytest.raises(HeadKindError, match='scores are not read as') as caught:
        Shifted(head).prove(None, head, maps_of(head), 'head')
    assert '; level' in str(caught.value.actual)


def test_boxes_that_differ_on_one_level_are_told_with_it() -> None:
    head = head_of('retinanet/retinanet_r50_fpn_1x_coco')

    class Shifted(DenseReader):
        def decode(self, head: Any, sides: Tensor, priors: Tensor, index: int) -> Any:
            boxes = super().decode(head, sides, priors, index)
            return boxes + (3.0 if index == 1 else 0.0)

    with pytest.raises(HeadKindError, match='boxes are not read as') as caught:
        Shifted(head).prove(None, head, maps_of(head), 'head')
    assert 'level 1: ' in str(caught.value.actual)


def test_rows_in_another_order_than_their_boxes_are_found() -> None:
    head = head_of('atss/atss_r50_fpn_1x_coco')

    class Turned(DenseReader):
        def logits(self, head: Any, level: Any) -> Tensor:
            return super().logits(head, level).flip(1)

    with pytest.raises(HeadKindError):
        Turned(head).prove(None, head, maps_of(head), 'head')


@pytest.mark.parametrize(
    'name',
    [
        'cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco',
        'centripetalnet/centripetalnet_hourglass104_16xb6-crop511-210e-mstest_coco',
    ],
)
def test_heads_of_corners_are_refused(name: str) -> None:
    head = head_of(name)
    kind: Any = find_reader(head)
    with pytest.raises(HeadKindError, match='predicts corners'):
        kind(head)


def test_joint_scores_are_finite_and_exact_at_extremes() -> None:
    from mkd_det.functional import joint_logit

    a = torch.tensor([-80.0, -5.0, 0.0, 3.0, 80.0], dtype=torch.float64)
    first, second = torch.meshgrid(a, a, indexing='ij')
    exact = (first.sigmoid() * second.sigmoid()).clamp(1e-300)
    mine = joint_logit(first, second)
    torch.testing.assert_close(mine.sigmoid(), exact)
    leaf = torch.tensor([-500.0, 500.0], requires_grad=True)
    joint_logit(leaf, leaf.flip(0)).sum().backward()
    assert leaf.grad is not None and leaf.grad.isfinite().all()
