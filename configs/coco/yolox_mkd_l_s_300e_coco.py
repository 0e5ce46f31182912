"""M-KD on COCO: YOLOX-l teaches YOLOX-s (40.5 alone).

Download COCO 2017 (https://cocodataset.org) at data/coco, and into checkpoints/
the teacher (49.4 box AP)
https://download.openmmlab.com/mmdetection/v2.0/yolox/yolox_l_8x8_300e_coco/yolox_l_8x8_300e_coco_20211126_140236-d3bd2b23.pth
"""

_base_ = ['mmdet::yolox/yolox_s_8xb8-300e_coco.py', '../_base_/recipes/mkd_csp_dense.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mmdet::yolox/yolox_l_8xb8-300e_coco.py',
        checkpoint='checkpoints/yolox_l_8x8_300e_coco_20211126_140236-d3bd2b23.pth')),
    **_base_.pop('recipe'))
# A few boxes of COCO have no height; mmdet leaves them out.
train_dataloader = dict(
    dataset=dict(dataset=dict(filter_cfg=dict(bbox_min_size=1))))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
