"""CrossKD on COCO: GFL ResNet-101 teaches ResNet-50 (40.2 alone), the paper's pair.

Download COCO 2017 (https://cocodataset.org) at data/coco, and into checkpoints/
the teacher (44.7 box AP)
https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth
"""

_base_ = ['mmdet::gfl/gfl_r50_fpn_1x_coco.py', '../_base_/recipes/crosskd_dense.py']
# The published weights and temperature; the recipe's were found on BCCD.
_base_.recipe.terms.loss_cross.update(weight=1.0, box_weight=4.0, box_tau=1.0)
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
        checkpoint='checkpoints/gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth')),
    **_base_.pop('recipe'))
# A few boxes of COCO have no height; mmdet leaves them out.
train_dataloader = dict(dataset=dict(filter_cfg=dict(bbox_min_size=1)))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
