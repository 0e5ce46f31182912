"""Soft outputs of both stages on playing cards: Faster R-CNN ResNet-18 with 64 base channels teaches one with 16.

Train the teacher first,
    mkd-det train configs/cards/faster-rcnn_r18-w64_cards.py
and copy its last epoch to checkpoints/faster-rcnn_r18-w64_cards.pth.
"""

_base_ = ['faster-rcnn_r18-w16_cards.py', '../_base_/recipes/soft_two_stage.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mkd_det::cards/faster-rcnn_r18-w64_cards.py',
        checkpoint='checkpoints/faster-rcnn_r18-w64_cards.pth')),
    **_base_.pop('recipe'))
