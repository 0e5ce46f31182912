"""CrossKD: features of the student's head through the rest of the teacher's head.

Wang et al., CVPR 2024, arXiv 2306.11369. For heads with four stacked convolutions a
branch; for others name the layer in `taps` (the student's) and `teachers.t.taps`. A config
takes it as `**_base_.pop('recipe')`.
"""

custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)

needs = dict(
    student=['bbox_head.cls_convs.2', 'bbox_head.reg_convs.2'],
    teacher=['bbox_head.cls_convs.2', 'bbox_head.reg_convs.2', 'bbox_head'],
    heads=dict(bbox_head=['dense']),
)

recipe = dict(
    taps=dict(
        inner=['bbox_head.cls_convs.2', 'bbox_head.reg_convs.2'], head='bbox_head'
    ),
    adapters=dict(cross=dict(type='CrossHead', student='inner', teacher='t.inner')),
    terms=dict(
        loss_cross=dict(
            type='SoftOutputKD',
            student='cross.student',
            teacher='t.head',
            share=3.0,
            weight=1.25,
        )
    ),
)
