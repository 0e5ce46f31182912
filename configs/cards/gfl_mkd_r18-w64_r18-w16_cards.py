"""M-KD on the playing-cards data: GFL ResNet-18 with 64 base channels teaches one with 16.

Train the teacher first,
    mkd-det train configs/cards/gfl_r18-w64_cards.py
and copy its last epoch to checkpoints/gfl_r18-w64_cards.pth.
"""

_base_ = ['gfl_r18-w16_cards.py', '../_base_/recipes/mkd_dense.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mkd_det::cards/gfl_r18-w64_cards.py',
        checkpoint='checkpoints/gfl_r18-w64_cards.pth')),
    **_base_.pop('recipe'))
