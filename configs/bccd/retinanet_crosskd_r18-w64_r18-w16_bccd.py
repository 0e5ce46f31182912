"""CrossKD on BCCD: RetinaNet ResNet-18 with 64 base channels teaches one with 16.

Nothing to download but BCCD (see ../_base_/datasets/bccd.py). Train the teacher
    python tools/train.py configs/bccd/retinanet_r18-w64_bccd.py
and copy its last epoch to checkpoints/retinanet_r18-w64_bccd.pth.
"""

_base_ = ['retinanet_r18-w16_bccd.py', '../_base_/recipes/crosskd_dense.py']
_base_.recipe.taps.inner = ['bbox_head.cls_convs.0', 'bbox_head.reg_convs.0']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mkd_det::bccd/retinanet_r18-w64_bccd.py',
        checkpoint='checkpoints/retinanet_r18-w64_bccd.pth')),
    **_base_.pop('recipe'))
