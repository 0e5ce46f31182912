"""PKD on COCO: DINO ResNet-50 teaches RTMDet-tiny (41.1 alone), necks matched by stride.

Download COCO 2017 (https://cocodataset.org) at data/coco, and into checkpoints/
the teacher (49.0 box AP)
https://download.openmmlab.com/mmdetection/v3.0/dino/dino-4scale_r50_8xb2-12e_coco/dino-4scale_r50_8xb2-12e_coco_20221202_182705-55b2bba2.pth
"""

_base_ = ['mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', '../_base_/recipes/pkd_dense.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
        checkpoint='checkpoints/dino-4scale_r50_8xb2-12e_coco_20221202_182705-55b2bba2.pth')),
    **_base_.pop('recipe'))
# A few boxes of COCO have no height; mmdet leaves them out.
train_dataloader = dict(dataset=dict(filter_cfg=dict(bbox_min_size=1)))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
