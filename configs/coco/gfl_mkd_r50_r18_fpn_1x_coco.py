"""M-KD on COCO: GFL ResNet-50 teaches GFL ResNet-18.

Download COCO 2017 (https://cocodataset.org) at data/coco, and into checkpoints/
the teacher (42.9 box AP)
https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r50_fpn_mstrain_2x_coco/gfl_r50_fpn_mstrain_2x_coco_20200629_213802-37bb1edc.pth
"""

_base_ = ['gfl_r18_fpn_1x_coco.py', '../_base_/recipes/mkd_dense.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mmdet::gfl/gfl_r50_fpn_ms-2x_coco.py',
        checkpoint='checkpoints/gfl_r50_fpn_mstrain_2x_coco_20200629_213802-37bb1edc.pth')),
    **_base_.pop('recipe'))
# A few boxes of COCO have no height; mmdet leaves them out.
train_dataloader = dict(dataset=dict(filter_cfg=dict(bbox_min_size=1)))
