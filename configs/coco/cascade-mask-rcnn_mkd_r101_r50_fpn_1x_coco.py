"""M-KD on COCO: Cascade Mask R-CNN ResNet-101 teaches ResNet-50 (41.2 box AP, 35.9 mask AP
alone), stage by stage.

Download COCO 2017 (https://cocodataset.org) at data/coco, and into checkpoints/
the teacher (42.9 box AP, 37.3 mask AP)
https://download.openmmlab.com/mmdetection/v2.0/cascade_rcnn/cascade_mask_rcnn_r101_fpn_1x_coco/cascade_mask_rcnn_r101_fpn_1x_coco_20200203-befdf6ee.pth
"""

_base_ = [
    'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    '../_base_/recipes/mkd_cascade_two_stage.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mmdet::cascade_rcnn/cascade-mask-rcnn_r101_fpn_1x_coco.py',
        checkpoint='checkpoints/cascade_mask_rcnn_r101_fpn_1x_coco_20200203-befdf6ee.pth')),
    **_base_.pop('recipe'))
# A few boxes of COCO have no height; mmdet leaves them out.
train_dataloader = dict(dataset=dict(filter_cfg=dict(bbox_min_size=1)))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
