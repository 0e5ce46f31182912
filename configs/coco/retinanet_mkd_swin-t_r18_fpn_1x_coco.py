"""M-KD on COCO: RetinaNet Swin-T teaches ResNet-18 (31.7 alone).

Download COCO 2017 (https://cocodataset.org) at data/coco. mmdet publishes no weights of
the teacher. Train it first,
    mkd-det train mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py
and copy its last epoch to checkpoints/retinanet_swin-t-p4-w7_fpn_1x_coco.pth.
"""

_base_ = ['mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', '../_base_/recipes/mkd_dense.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py',
        checkpoint='checkpoints/retinanet_swin-t-p4-w7_fpn_1x_coco.pth')),
    **_base_.pop('recipe'))
# A few boxes of COCO have no height; mmdet leaves them out.
train_dataloader = dict(dataset=dict(filter_cfg=dict(bbox_min_size=1)))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
