"""DGKD on BCCD with M-KD as the way of teaching: GFL ResNet-18 with 64 base channels,
an assistant with 32, the student with 16.

    mkd-det chain configs/chain/gfl_r18-w64-32_dgkd_r18-w16_bccd.py

trains all three. A teacher that is trained already: root.checkpoint, as
    --cfg-options root.checkpoint=checkpoints/gfl_r18-w64_bccd.pth
"""
_base_ = ['../_base_/recipes/mkd_dense.py']
root = dict(name='w64', cfg='mkd_det::bccd/gfl_r18-w64_bccd.py')
stages = [
    dict(name='w32', cfg='mkd_det::bccd/gfl_r18-w32_bccd.py'),
    dict(name='w16', cfg='mkd_det::bccd/gfl_r18-w16_bccd.py'),
]
guides = 'dense'
lam = 0.5
