"""M-KD on playing cards: an RTMDet of half the widths of RTMDet-l teaches one of an eighth.

Train the teacher first,
    mkd-det train configs/cards/rtmdet-w050_cards.py
and copy its last epoch to checkpoints/rtmdet-w050_cards.pth.
"""

_base_ = ['rtmdet-w012_cards.py', '../_base_/recipes/mkd_csp_dense.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mkd_det::cards/rtmdet-w050_cards.py',
        checkpoint='checkpoints/rtmdet-w050_cards.pth')),
    **_base_.pop('recipe'))
