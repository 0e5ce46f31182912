"""M-KD on the circuit-board data: GFL ResNet-18 with 64 base channels teaches one with 16.

Train the teacher first,
    mkd-det train configs/pcb/gfl_r18-w64_pcb.py
and copy its last epoch to checkpoints/gfl_r18-w64_pcb.pth.
"""

_base_ = ['gfl_r18-w16_pcb.py', '../_base_/recipes/mkd_dense.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mkd_det::pcb/gfl_r18-w64_pcb.py',
        checkpoint='checkpoints/gfl_r18-w64_pcb.pth')),
    **_base_.pop('recipe'))
