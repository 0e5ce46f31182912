"""PKD on COCO: FCOS ResNeXt-101 teaches RetinaNet ResNet-50 (36.5 alone), the paper's
pair of two kinds.

Download COCO 2017 (https://cocodataset.org) at data/coco, and into checkpoints/
the teacher (42.6 box AP)
https://download.openmmlab.com/mmdetection/v2.0/fcos/fcos_x101_64x4d_fpn_gn-head_mstrain_640-800_2x_coco/fcos_x101_64x4d_fpn_gn-head_mstrain_640-800_2x_coco-ede514a8.pth
"""

_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/recipes/pkd_dense.py']
# The published weight for this pair is 10, of the sum over four levels; here it is their mean.
_base_.recipe.taps.fpn = [f'neck.fpn_convs.{n}' for n in range(4)]
_base_.recipe.terms.loss_feature.weight = 40.0
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mmdet::fcos/fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco.py',
        checkpoint='checkpoints/fcos_x101_64x4d_fpn_gn-head_mstrain_640-800_2x_coco-ede514a8.pth')),
    **_base_.pop('recipe'))
# A few boxes of COCO have no height; mmdet leaves them out.
train_dataloader = dict(dataset=dict(filter_cfg=dict(bbox_min_size=1)))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
