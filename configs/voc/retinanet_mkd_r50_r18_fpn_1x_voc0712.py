"""M-KD on VOC 07+12: RetinaNet ResNet-50 teaches RetinaNet ResNet-18.

Download VOC 2007 and 2012 (http://host.robots.ox.ac.uk/pascal/VOC) at
data/VOCdevkit, and into checkpoints/ the teacher (79.2 mAP)
https://download.openmmlab.com/mmdetection/v2.0/pascal_voc/retinanet_r50_fpn_1x_voc0712/retinanet_r50_fpn_1x_voc0712_20220320_222034-b30e6097.pth
"""

_base_ = ['retinanet_r18_fpn_1x_voc0712.py', '../_base_/recipes/mkd_dense.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py',
        checkpoint='checkpoints/retinanet_r50_fpn_1x_voc0712_20220320_222034-b30e6097.pth')),
    **_base_.pop('recipe'))
