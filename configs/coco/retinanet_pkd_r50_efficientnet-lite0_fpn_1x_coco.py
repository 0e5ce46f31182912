"""PKD on COCO: RetinaNet ResNet-50 teaches RetinaNet over timm's EfficientNet-Lite0.

The student's backbone starts from ImageNet: see retinanet_efficientnet-lite0_fpn_1x_coco.py. Download
COCO 2017 (https://cocodataset.org) at data/coco, and into checkpoints/ the teacher (39.5 box AP)
https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r50_fpn_mstrain_3x_coco/retinanet_r50_fpn_mstrain_3x_coco_20210718_220633-88476508.pth
"""

_base_ = ['../_base_/models/retinanet_efficientnet-lite0.py', '../_base_/recipes/pkd_dense.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mmdet::retinanet/retinanet_r50_fpn_ms-640-800-3x_coco.py',
        checkpoint='checkpoints/retinanet_r50_fpn_mstrain_3x_coco_20210718_220633-88476508.pth')),
    **_base_.pop('recipe'))
# A few boxes of COCO have no height; mmdet leaves them out.
train_dataloader = dict(dataset=dict(filter_cfg=dict(bbox_min_size=1)))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
