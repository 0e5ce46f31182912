"""M-KD on COCO: RTMDet-l teaches RTMDet-tiny (40.9 alone).

Download COCO 2017 (https://cocodataset.org) at data/coco, and into checkpoints/
the teacher (51.3 box AP)
https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_l_8xb32-300e_coco/rtmdet_l_8xb32-300e_coco_20220719_112030-5a0be7c4.pth
"""

_base_ = ['mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', '../_base_/recipes/mkd_csp_dense.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py',
        checkpoint='checkpoints/rtmdet_l_8xb32-300e_coco_20220719_112030-5a0be7c4.pth')),
    **_base_.pop('recipe'))
# A few boxes of COCO have no height; mmdet leaves them out.
train_dataloader = dict(dataset=dict(filter_cfg=dict(bbox_min_size=1)))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
