"""M-KD on COCO: ATSS ResNet-101 teaches ATSS ResNet-50 (39.4 alone).

Download COCO 2017 (https://cocodataset.org) at data/coco, and into checkpoints/
the teacher (41.5 box AP)
https://download.openmmlab.com/mmdetection/v2.0/atss/atss_r101_fpn_1x_coco/atss_r101_fpn_1x_20200825-dfcadd6f.pth
"""

_base_ = ['mmdet::atss/atss_r50_fpn_1x_coco.py', '../_base_/recipes/mkd_dense.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mmdet::atss/atss_r101_fpn_1x_coco.py',
        checkpoint='checkpoints/atss_r101_fpn_1x_20200825-dfcadd6f.pth')),
    **_base_.pop('recipe'))
# A few boxes of COCO have no height; mmdet leaves them out.
train_dataloader = dict(dataset=dict(filter_cfg=dict(bbox_min_size=1)))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
