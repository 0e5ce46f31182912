"""MGD on COCO: RetinaNet ResNeXt-101 teaches ResNet-50 (36.5 alone), a pair of the
paper's.
The paper's figures are of students that inherit the teacher's neck and head:
    model = dict(inherit=dict(teacher='t', modules=['neck', 'bbox_head']))

Download COCO 2017 (https://cocodataset.org) at data/coco, and into checkpoints/
the teacher (41.0 box AP)
https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_x101_64x4d_fpn_1x_coco/retinanet_x101_64x4d_fpn_1x_coco_20200130-366f5af1.pth
"""

_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/recipes/mgd_dense.py']
# As published, in sums.
_base_.recipe.terms.loss_feature.update(form='l2_sum', weight=2e-5)
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py',
        checkpoint='checkpoints/retinanet_x101_64x4d_fpn_1x_coco_20200130-366f5af1.pth')),
    **_base_.pop('recipe'))
# A few boxes of COCO have no height; mmdet leaves them out.
train_dataloader = dict(dataset=dict(filter_cfg=dict(bbox_min_size=1)))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
