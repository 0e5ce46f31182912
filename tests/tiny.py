"""The smallest real things that tests need: detectors, batches, data, files.

Plain functions, so that spawned processes can import them; `conftest.py` offers
them as fixtures. Importing this sets nothing up and changes no state.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

CLASSES = ('red', 'green', 'blue')
COLOURS = ((40, 40, 220), (40, 200, 40), (220, 40, 40))  # BGR, as cv2 writes


def gfl(
    base_channels: int = 8, neck: int = 16, convs: int = 1, num_classes: int = 3
) -> dict[str, Any]:
    """Config of a tiny GFL: ResNet-18, FPN of five levels (strides 8 to 128)."""
    return dict(
        type='GFL',
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            pad_size_divisor=32,
        ),
        backbone=_resnet18(base_channels),
        neck=_fpn(base_channels, neck),
        bbox_head=dict(
            type='GFLHead',
            num_classes=num_classes,
            in_channels=neck,
            stacked_convs=convs,
            feat_channels=neck,
            # GroupNorm's stock 32 groups do not divide a tiny head's channels.
            norm_cfg=dict(type='GN', num_groups=4, requires_grad=True),
            anchor_generator=_square_anchors(),
            loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0),
            loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
            reg_max=16,
            loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        ),
        train_cfg=_atss_train_cfg(),
        test_cfg=_test_cfg(),
    )


def atss(
    base_channels: int = 8, neck: int = 16, convs: int = 1, num_classes: int = 3
) -> dict[str, Any]:
    """Config of a tiny ATSS: plain boxes beside centerness."""
    return {
        **gfl(base_channels, neck, convs, num_classes),
        'type': 'ATSS',
        'bbox_head': dict(
            type='ATSSHead',
            num_classes=num_classes,
            in_channels=neck,
            stacked_convs=convs,
            feat_channels=neck,
            norm_cfg=dict(type='GN', num_groups=4, requires_grad=True),
            anchor_generator=_square_anchors(),
            bbox_coder=dict(
                type='DeltaXYWHBBoxCoder',
                target_means=[0.0, 0.0, 0.0, 0.0],
                target_stds=[0.1, 0.1, 0.2, 0.2],
            ),
            loss_cls=dict(type='FocalLoss', use_sigmoid=True),
            loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
            loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True),
        ),
    }


def retinanet(
    base_channels: int = 8, neck: int = 16, convs: int = 1, num_classes: int = 3
) -> dict[str, Any]:
    """Config of a tiny RetinaNet: nine anchors a place, box deltas."""
    return {
        **gfl(base_channels, neck, convs, num_classes),
        'type': 'RetinaNet',
        'bbox_head': dict(
            type='RetinaHead',
            num_classes=num_classes,
            in_channels=neck,
            stacked_convs=convs,
            feat_channels=neck,
            anchor_generator=dict(
                type='AnchorGenerator',
                octave_base_scale=4,
                scales_per_octave=3,
                ratios=[0.5, 1.0, 2.0],
                strides=[8, 16, 32, 64, 128],
            ),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            loss_cls=dict(type='FocalLoss', use_sigmoid=True),
            loss_bbox=dict(type='L1Loss'),
        ),
        'train_cfg': dict(
            assigner=dict(
                type='MaxIoUAssigner',
                pos_iou_thr=0.5,
                neg_iou_thr=0.4,
                min_pos_iou=0,
                ignore_iof_thr=-1,
            ),
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
    }


def fcos(
    base_channels: int = 8, neck: int = 16, convs: int = 1, num_classes: int = 3
) -> dict[str, Any]:
    """Config of a tiny FCOS: no anchors, distances to the four sides."""
    return {
        **gfl(base_channels, neck, convs, num_classes),
        'type': 'FCOS',
        'bbox_head': dict(
            type='FCOSHead',
            num_classes=num_classes,
            in_channels=neck,
            stacked_convs=convs,
            feat_channels=neck,
            norm_cfg=dict(type='GN', num_groups=4, requires_grad=True),
            strides=[8, 16, 32, 64, 128],
            loss_cls=dict(type='FocalLoss', use_sigmoid=True),
            loss_bbox=dict(type='IoULoss'),
            loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True),
        ),
        'train_cfg': None,
    }


def rtmdet(
    base_channels: int = 8, neck: int = 16, convs: int = 1, num_classes: int = 3
) -> dict[str, Any]:
    """Config of a tiny RTMDet: each level has layers of its own, and signed
    distances."""
    return {
        **gfl(base_channels, neck, convs, num_classes),
        'type': 'RTMDet',
        'use_syncbn': False,
        'bbox_head': dict(
            type='RTMDetSepBNHead',
            num_classes=num_classes,
            in_channels=neck,
            stacked_convs=convs,
            feat_channels=neck,
            share_conv=False,
            norm_cfg=dict(type='BN'),
            act_cfg=dict(type='SiLU', inplace=True),
            anchor_generator=dict(
                type='MlvlPointGenerator', offset=0, strides=[8, 16, 32, 64, 128]
            ),
            bbox_coder=dict(type='DistancePointBBoxCoder'),
            loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0),
            loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        ),
        'train_cfg': dict(
            assigner=dict(type='DynamicSoftLabelAssigner', topk=13),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
    }


def faster_rcnn(
    base_channels: int = 8, neck: int = 16, num_classes: int = 3
) -> dict[str, Any]:
    """Config of a tiny Faster R-CNN: regions of an RPN, one box head."""
    parts = gfl(base_channels, neck)
    del parts['bbox_head']
    return {
        **parts,
        'type': 'FasterRCNN',
        'rpn_head': _rpn(neck),
        'roi_head': dict(
            type='StandardRoIHead',
            bbox_roi_extractor=_extractor(neck),
            bbox_head=_box_head(neck, num_classes),
        ),
        'train_cfg': dict(
            rpn=_rpn_train_cfg(),
            rpn_proposal=dict(_PROPOSALS),
            rcnn=_box_train_cfg(0.5),
        ),
        'test_cfg': dict(rpn=dict(_PROPOSALS), rcnn=_box_test_cfg()),
    }


def cascade_rcnn(
    base_channels: int = 8, neck: int = 16, num_classes: int = 3
) -> dict[str, Any]:
    """Config of a tiny Cascade R-CNN of two stages."""
    whole = faster_rcnn(base_channels, neck, num_classes)
    whole['type'] = 'CascadeRCNN'
    whole['roi_head'] = dict(
        type='CascadeRoIHead',
        num_stages=2,
        stage_loss_weights=[1, 0.5],
        bbox_roi_extractor=_extractor(neck),
        bbox_head=[_box_head(neck, num_classes, agnostic=True) for _ in range(2)],
    )
    whole['train_cfg']['rcnn'] = [_box_train_cfg(iou) for iou in (0.5, 0.6)]
    return whole


def mask_rcnn(
    base_channels: int = 8, neck: int = 16, num_classes: int = 3
) -> dict[str, Any]:
    """Config of a tiny Mask R-CNN: masks of 8x8 pixels."""
    whole = faster_rcnn(base_channels, neck, num_classes)
    whole['type'] = 'MaskRCNN'
    whole['roi_head'].update(_mask_parts(neck, num_classes))
    whole['train_cfg']['rcnn']['mask_size'] = 8
    whole['test_cfg']['rcnn']['mask_thr_binary'] = 0.5
    return whole


def cascade_mask_rcnn(
    base_channels: int = 8, neck: int = 16, num_classes: int = 3
) -> dict[str, Any]:
    """Config of a tiny Cascade Mask R-CNN of two stages."""
    whole = cascade_rcnn(base_channels, neck, num_classes)
    parts = _mask_parts(neck, num_classes)
    whole['roi_head'].update(parts, mask_head=[parts['mask_head']] * 2)
    for stage in whole['train_cfg']['rcnn']:
        stage['mask_size'] = 8
    return whole


def _mask_parts(neck: int, num_classes: int) -> dict[str, Any]:
    extractor = _extractor(neck)
    extractor['roi_layer']['output_size'] = 4
    return dict(
        mask_roi_extractor=extractor,
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=1,
            roi_feat_size=4,
            in_channels=neck,
            conv_out_channels=neck,
            num_classes=num_classes,
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
        ),
    )


def detr(
    base_channels: int = 8, width: int = 16, queries: int = 6, num_classes: int = 3
) -> dict[str, Any]:
    """Config of a tiny DETR: one level, softmax classes, fixed queries."""
    attention = dict(embed_dims=width, num_heads=2, dropout=0.0, batch_first=True)
    ffn = dict(embed_dims=width, feedforward_channels=16, ffn_drop=0.0)
    return dict(
        type='DETR',
        num_queries=queries,
        data_preprocessor=gfl()['data_preprocessor'],
        backbone={**_resnet18(base_channels), 'out_indices': (3,)},
        neck=_mapper([base_channels * 8], width, 1),
        encoder=dict(
            num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)
        ),
        decoder=dict(
            num_layers=2,
            layer_cfg=dict(
                self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn
            ),
            return_intermediate=True,
        ),
        positional_encoding=dict(num_feats=width // 2, normalize=True),
        bbox_head=dict(
            type='DETRHead',
            num_classes=num_classes,
            embed_dims=width,
            loss_cls=dict(type='CrossEntropyLoss', bg_cls_weight=0.1, class_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=5.0),
            loss_iou=dict(type='GIoULoss', loss_weight=2.0),
        ),
        train_cfg=dict(assigner=_hungarian('ClassificationCost')),
        test_cfg=dict(max_per_img=queries),
    )


def conditional_detr(**sizes: Any) -> dict[str, Any]:
    """Config of a tiny Conditional DETR: as DETR, with sigmoid classes.

    mmdet's encodes reference points in a width of 256, whatever the config says.
    """
    whole = detr(**{'width': 256, **sizes})
    width = whole['bbox_head']['embed_dims']
    for name, cross in (('self_attn_cfg', False), ('cross_attn_cfg', True)):
        whole['decoder']['layer_cfg'][name] = dict(
            embed_dims=width, num_heads=2, attn_drop=0.0, cross_attn=cross
        )
    whole.update(type='ConditionalDETR')
    whole['train_cfg'] = dict(assigner=_hungarian('FocalLossCost'))
    whole['bbox_head'].update(type='ConditionalDETRHead', loss_cls=_FOCAL)
    return whole


def dab_detr(**sizes: Any) -> dict[str, Any]:
    """Config of a tiny DAB-DETR: queries with boxes that layers refine."""
    whole = conditional_detr(**{'width': 16, **sizes})
    whole.update(type='DABDETR', with_random_refpoints=False, num_patterns=0)
    whole['decoder'].update(
        query_dim=4, query_scale_type='cond_elewise', with_modulated_hw_attn=True
    )
    width = whole['bbox_head']['embed_dims']
    for name, cross in (('self_attn_cfg', False), ('cross_attn_cfg', True)):
        whole['decoder']['layer_cfg'][name] = dict(
            embed_dims=width,
            num_heads=2,
            attn_drop=0.0,
            proj_drop=0.0,
            cross_attn=cross,
        )
    for part in ('encoder', 'decoder'):
        ffn = dict(whole[part]['layer_cfg']['ffn_cfg'], act_cfg=dict(type='PReLU'))
        whole[part]['layer_cfg']['ffn_cfg'] = ffn
    whole['bbox_head'].update(type='DABDETRHead')
    return whole


def deformable_detr(
    base_channels: int = 8, width: int = 16, queries: int = 6, num_classes: int = 3
) -> dict[str, Any]:
    """Config of a tiny Deformable DETR: levels of strides 8 to 64."""
    own = dict(embed_dims=width, num_heads=2, dropout=0.0)
    deformable = dict(**own, num_levels=4, num_points=1)
    ffn = dict(embed_dims=width, feedforward_channels=16, ffn_drop=0.0)
    return dict(
        type='DeformableDETR',
        num_queries=queries,
        num_feature_levels=4,
        with_box_refine=False,
        as_two_stage=False,
        data_preprocessor=gfl()['data_preprocessor'],
        backbone={**_resnet18(base_channels), 'out_indices': (1, 2, 3)},
        neck=_mapper([base_channels * 2**i for i in (1, 2, 3)], width, 4),
        encoder=dict(
            num_layers=1, layer_cfg=dict(self_attn_cfg=deformable, ffn_cfg=ffn)
        ),
        decoder=dict(
            num_layers=2,
            return_intermediate=True,
            layer_cfg=dict(
                self_attn_cfg={**own, 'batch_first': True},
                cross_attn_cfg=deformable,
                ffn_cfg=ffn,
            ),
            post_norm_cfg=None,
        ),
        positional_encoding=dict(num_feats=width // 2, normalize=True, offset=-0.5),
        bbox_head=dict(
            type='DeformableDETRHead',
            num_classes=num_classes,
            embed_dims=width,
            sync_cls_avg_factor=True,
            loss_cls=_FOCAL,
            loss_bbox=dict(type='L1Loss', loss_weight=5.0),
            loss_iou=dict(type='GIoULoss', loss_weight=2.0),
        ),
        train_cfg=dict(assigner=_hungarian('FocalLossCost')),
        test_cfg=dict(max_per_img=queries),
    )


def dino(**sizes: Any) -> dict[str, Any]:
    """Config of a tiny DINO: queries of the encoder, denoising queries in training."""
    whole = deformable_detr(**sizes)
    whole.update(
        type='DINO',
        with_box_refine=True,
        as_two_stage=True,
        dn_cfg=dict(
            label_noise_scale=0.5,
            box_noise_scale=1.0,
            group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=4),
        ),
    )
    whole['positional_encoding'].update(offset=0.0, temperature=20)
    whole['bbox_head'].update(type='DINOHead')
    return whole


def ddq_detr(**sizes: Any) -> dict[str, Any]:
    """Config of a tiny DDQ: distinct queries, dense queries in training."""
    whole = dino(**sizes)
    whole.update(
        type='DDQDETR',
        dense_topk_ratio=1.5,
        dqs_cfg=dict(type='nms', iou_threshold=0.8),
    )
    whole['bbox_head'].update(type='DDQDETRHead')
    return whole


_FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25)


def _mapper(channels: list[int], width: int, levels: int) -> dict[str, Any]:
    return dict(
        type='ChannelMapper',
        in_channels=channels,
        kernel_size=1,
        out_channels=width,
        act_cfg=None,
        norm_cfg=dict(type='GN', num_groups=4),
        num_outs=levels,
    )


def _hungarian(classes: str) -> dict[str, Any]:
    return dict(
        type='HungarianAssigner',
        match_costs=[
            dict(type=classes, weight=2.0),
            dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
            dict(type='IoUCost', iou_mode='giou', weight=2.0),
        ],
    )


_PROPOSALS = dict(
    nms_pre=64, max_per_img=32, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0
)


def _rpn(neck: int) -> dict[str, Any]:
    return dict(
        type='RPNHead',
        in_channels=neck,
        feat_channels=neck,
        anchor_generator=dict(
            type='AnchorGenerator',
            scales=[4],
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
        loss_bbox=dict(type='L1Loss'),
    )


def _extractor(neck: int) -> dict[str, Any]:
    return dict(
        type='SingleRoIExtractor',
        roi_layer=dict(type='RoIAlign', output_size=3, sampling_ratio=0),
        out_channels=neck,
        featmap_strides=[8, 16, 32, 64],
    )


def _box_head(neck: int, num_classes: int, agnostic: bool = False) -> dict[str, Any]:
    return dict(
        type='Shared2FCBBoxHead',
        in_channels=neck,
        fc_out_channels=2 * neck,
        roi_feat_size=3,
        num_classes=num_classes,
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
        reg_class_agnostic=agnostic,
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False),
        loss_bbox=dict(type='L1Loss'),
    )


def _assigner(positive: float, negative: float) -> dict[str, Any]:
    return dict(
        type='MaxIoUAssigner',
        pos_iou_thr=positive,
        neg_iou_thr=negative,
        min_pos_iou=positive,
        match_low_quality=False,
        ignore_iof_thr=-1,
    )


def _rpn_train_cfg() -> dict[str, Any]:
    return dict(
        assigner=_assigner(0.7, 0.3),
        sampler=dict(
            type='RandomSampler',
            num=64,
            pos_fraction=0.5,
            neg_pos_ub=-1,
            add_gt_as_proposals=False,
        ),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    )


def _box_train_cfg(iou: float) -> dict[str, Any]:
    return dict(
        assigner=_assigner(iou, iou),
        sampler=dict(
            type='RandomSampler',
            num=32,
            pos_fraction=0.25,
            neg_pos_ub=-1,
            add_gt_as_proposals=True,
        ),
        pos_weight=-1,
        debug=False,
    )


def _box_test_cfg() -> dict[str, Any]:
    return dict(score_thr=0.01, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20)


def _resnet18(base_channels: int) -> dict[str, Any]:
    return dict(
        type='ResNet',
        depth=18,
        base_channels=base_channels,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
    )


def _fpn(base_channels: int, out_channels: int) -> dict[str, Any]:
    return dict(
        type='FPN',
        in_channels=[base_channels * 2**i for i in range(4)],
        out_channels=out_channels,
        start_level=1,
        add_extra_convs='on_output',
        num_outs=5,
    )


def _square_anchors() -> dict[str, Any]:
    return dict(
        type='AnchorGenerator',
        ratios=[1.0],
        octave_base_scale=8,
        scales_per_octave=1,
        strides=[8, 16, 32, 64, 128],
    )


def _atss_train_cfg() -> dict[str, Any]:
    return dict(
        assigner=dict(type='ATSSAssigner', topk=9),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    )


def _test_cfg() -> dict[str, Any]:
    return dict(
        nms_pre=100,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=20,
    )


def distiller(
    student: dict[str, Any],
    teacher: dict[str, Any],
    checkpoint: Path | str | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Config of a Distiller, teacher `t`, with one part of every kind.

    Args:
        student, teacher: Configs of two detectors with FPN.
        checkpoint: The teacher's weights; None keeps it random.
        changes: What to have instead: `terms`, `branches`, ...
    """
    parts: dict[str, Any] = dict(
        taps=dict(stages='backbone', fpn='neck', head='bbox_head'),
        adapters=dict(
            guide=dict(type='GuidanceLayer', student='stages', teacher='t.stages')
        ),
        branches=dict(explore=dict(type='ExplorationBranch', on='neck.fpn_convs')),
        terms=dict(
            loss_soft=dict(type='SoftOutputKD', student='head', teacher='t.head'),
            loss_relation=dict(
                type='RelationKD', student='guide.student', teacher='guide.teacher'
            ),
            loss_attention=dict(
                type='AttentionKD', student='stages', teacher='t.stages'
            ),
        ),
        probe_size=64,
    )
    file = None if checkpoint is None else str(checkpoint)
    return dict(
        type='Distiller',
        student=student,
        **{
            # As it is: what is compared with it is compared bit by bit.
            'teachers': dict(t=dict(cfg=teacher, checkpoint=file, speed='off')),
            **parts,
            **changes,
        },
    )


def build(cfg: dict[str, Any], seed: int = 0) -> nn.Module:
    """The model of `cfg` with its own initial weights, the same for a seed."""
    from mmdet.registry import MODELS
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    torch.default_generator.manual_seed(seed)
    model = MODELS.build(Config(dict(model=cfg)).copy().model)
    model.init_weights()
    return model


def fill_level_embeddings(model: Any) -> None:
    """Give values to what Deformable DETR leaves as uninitialised memory.

    Its `init_weights` does it; a teacher without a checkpoint is not initialised.

    Args:
        model: A distiller, or any other model.
    """
    teachers = getattr(model, 'teachers', {}).values()
    for one in (model, *(teacher.model for teacher in teachers)):
        for name, parameter in one.named_parameters():
            if name.endswith('level_embed'):
                nn.init.normal_(parameter)


def batch(
    images: int = 2,
    size: tuple[int, int] = (64, 64),
    num_classes: int = 3,
    boxes: int = 2,
    seed: int = 0,
    masks: bool = False,
) -> dict[str, list]:
    """What a dataloader yields: {'inputs': uint8 (3, H, W), 'data_samples'}; masks
    fill their boxes."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    rng = np.random.default_rng(seed)
    inputs, samples = [], []
    for index in range(images):
        inputs.append(torch.from_numpy(rng.integers(0, 256, (3, *size), np.uint8)))
        sample = DetDataSample(
            metainfo=dict(
                img_id=index,
                img_path=f'{index}.png',
                img_shape=size,
                ori_shape=size,
                pad_shape=size,
                batch_input_shape=size,
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=_random_boxes(rng, boxes, size),
            labels=torch.from_numpy(rng.integers(0, num_classes, boxes)),
        )
        if masks:
            sample.gt_instances.masks = _filled(sample.gt_instances.bboxes, size)
        # mmdet's heads ask for it even where nothing is ignored.
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def _filled(boxes: Tensor, size: tuple[int, int]) -> Any:
    """Masks that fill boxes (M, 4) in images of (H, W)."""
    from mmdet.structures.mask import BitmapMasks

    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
        mask[top:bottom, left:right] = 1
    return BitmapMasks(masks, *size)


def _random_boxes(
    rng: np.random.Generator, count: int, size: tuple[int, int]
) -> Tensor:
    """(count, 4) boxes x1, y1, x2, y2 inside (H, W), sides at least 8 pixels."""
    height, width = size
    sides = np.stack(
        [rng.uniform(8, width / 2, count), rng.uniform(8, height / 2, count)], 1
    )
    corner = rng.uniform(0, 1, (count, 2)) * (np.array([width, height]) - sides)
    return torch.from_numpy(np.concatenate([corner, corner + sides], 1)).float()


def write_checkpoint(
    cfg: dict[str, Any],
    path: Path,
    seed: int = 1,
    classes: tuple[str, ...] | None = CLASSES,
) -> Path:
    """Save a randomly initialised model of `cfg` as mmengine would."""
    meta = {'dataset_meta': {'classes': classes}} if classes else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({'state_dict': build(cfg, seed).state_dict(), 'meta': meta}, path)
    return path


def write_coco(
    root: Path, images: int = 8, size: tuple[int, int] = (64, 96), seed: int = 0
) -> Path:
    """A COCO data set: filled rectangles, one colour a class, on grey noise.

    Writes `root/images/*.png` and `root/annotations.json`; returns `root`.
    """
    rng = np.random.default_rng(seed)
    (root / 'images').mkdir(parents=True, exist_ok=True)
    records: list[dict] = []
    annotations: list[dict] = []
    for index in range(images):
        name = f'{index:03d}.png'
        picture = rng.integers(90, 130, (*size, 3), dtype=np.uint8)
        for box in _random_boxes(rng, int(rng.integers(1, 4)), size).int().tolist():
            label = int(rng.integers(len(CLASSES)))
            x1, y1, x2, y2 = box
            picture[y1:y2, x1:x2] = COLOURS[label]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=index,
                    category_id=label + 1,
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=(x2 - x1) * (y2 - y1),
                    iscrowd=0,
                )
            )
        cv2.imwrite(str(root / 'images' / name), picture)
        records.append(dict(id=index, file_name=name, height=size[0], width=size[1]))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=records, annotations=annotations, categories=categories)
    (root / 'annotations.json').write_text(json.dumps(content))
    return root


def runner_cfg(
    model: dict[str, Any],
    data: Path,
    work_dir: Path,
    epochs: int = 1,
    batch_size: int = 2,
    val: bool = True,
) -> Config:
    """A whole training on the data of `write_coco`: SGD, no workers, seed 0."""
    cfg = dict(
        default_scope='mmdet',
        model=model,
        train_dataloader=_loader(data, batch_size, train=True),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=1),
        optim_wrapper=dict(
            type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3, momentum=0.9)
        ),
        param_scheduler=[],
        default_hooks=dict(
            timer=dict(type='IterTimerHook'),
            logger=dict(type='LoggerHook', interval=1),
            param_scheduler=dict(type='ParamSchedulerHook'),
            checkpoint=dict(type='CheckpointHook', interval=1),
            sampler_seed=dict(type='DistSamplerSeedHook'),
        ),
        visualizer=dict(
            type='DetLocalVisualizer',
            vis_backends=[dict(type='LocalVisBackend')],
            name='visualizer',
        ),
        log_level='WARNING',
        randomness=dict(seed=0, deterministic=False),
        work_dir=str(work_dir),
    )
    if val:
        cfg |= _evaluation(data, batch_size)
    # mmengine writes the config out six times a run. To have yapf make it nice to
    # look at takes longer than all the rest.
    return Config(cfg, format_python_code=False)


def _loader(data: Path, batch_size: int, train: bool) -> dict[str, Any]:
    """Of the data of `write_coco`."""
    pack: dict[str, Any] = dict(type='PackDetInputs')
    if not train:
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
        pack['meta_keys'] = keys
    return dict(
        batch_size=batch_size,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=train),
        dataset=dict(
            type='CocoDataset',
            metainfo=dict(classes=CLASSES),
            data_root=str(data),
            ann_file='annotations.json',
            data_prefix=dict(img='images/'),
            test_mode=not train,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='Resize', scale=(96, 64), keep_ratio=True),
                pack,
            ],
        ),
    )


def _evaluation(data: Path, batch_size: int) -> dict[str, Any]:
    """Loops, data and metric of validation and test."""
    path = str(data / 'annotations.json')
    metric = dict(type='CocoMetric', ann_file=path, metric='bbox')
    parts: dict[str, Any] = dict(val_cfg=dict(type='ValLoop'))
    parts['test_cfg'] = dict(type='TestLoop')
    for split in ('val', 'test'):
        parts[f'{split}_dataloader'] = _loader(data, batch_size, train=False)
        parts[f'{split}_evaluator'] = dict(metric)
    return parts
