"""LD on BCCD: box distributions in the main and the valuable region, classes beside.
Data and teacher as for the whole."""

_base_ = ['../gfl_r18-w16_bccd.py', '../../_base_/recipes/ld_dense.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(
        t=dict(
            cfg='mkd_det::bccd/gfl_r18-w64_bccd.py',
            checkpoint='checkpoints/gfl_r18-w64_bccd.pth')),
    **_base_.pop('recipe'))
