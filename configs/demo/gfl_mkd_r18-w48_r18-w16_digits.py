"""M-KD in the demo: GFL ResNet-18 with 48 base channels teaches one with 16.

`make demo` runs it with the teacher that it has trained before.
"""

_base_ = ['gfl_r18-w16_digits.py', '../_base_/recipes/mkd_dense.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(
        t=dict(
            cfg='mkd_det::demo/gfl_r18-w48_digits.py',
            checkpoint='work_dirs/demo/teacher/epoch_16.pth',
        )
    ),
    **_base_.pop('recipe'),
)
