"""M-KD on COCO: RTMDet-Ins-l teaches RTMDet-Ins-s (44.0 and 38.7 alone).

The teacher teaches classes, boxes and features. Masks are learned from the data alone.

Download COCO 2017 (https://cocodataset.org) at data/coco, and into checkpoints/
the teacher (51.2 box AP, 43.7 mask AP)
https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet-ins_l_8xb32-300e_coco/rtmdet-ins_l_8xb32-300e_coco_20221124_103237-78d1d652.pth
"""

_base_ = [
    'mmdet::rtmdet/rtmdet-ins_s_8xb32-300e_coco.py',
    '../_base_/recipes/mkd_csp_dense.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mmdet::rtmdet/rtmdet-ins_l_8xb32-300e_coco.py',
        checkpoint='checkpoints/rtmdet-ins_l_8xb32-300e_coco_20221124_103237-78d1d652.pth')),
    **_base_.pop('recipe'))
# A few boxes of COCO have no height; mmdet leaves them out.
train_dataloader = dict(dataset=dict(filter_cfg=dict(bbox_min_size=1)))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
