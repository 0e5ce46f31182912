"""CrossKD alone on BCCD: what the only layer of each branch of the student's head yields,
through the second of the teacher's. Data and teacher as for the whole."""

_base_ = ['../gfl_r18-w16_bccd.py', '../../_base_/recipes/crosskd_dense.py']
_base_.recipe.taps.inner = ['bbox_head.cls_convs.0', 'bbox_head.reg_convs.0']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(
        t=dict(
            cfg='mkd_det::bccd/gfl_r18-w64_bccd.py',
            checkpoint='checkpoints/gfl_r18-w64_bccd.pth')),
    **_base_.pop('recipe'))
