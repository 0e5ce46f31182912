"""RetinaNet over EfficientNet-Lite0 of timm, from ImageNet weights."""

_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        name='efficientnet_lite0',
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/efficientnet-lite0-57934424.pth'),
    ),
    neck=dict(in_channels=[40, 112, 320], start_level=0),
)
