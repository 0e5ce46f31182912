"""LD: box distributions in the main and the valuable region, and the classes beside them.

Zheng et al., CVPR 2022, arXiv 2102.12252. For heads with distributions, such as GFLHead. A
config takes it as `**_base_.pop('recipe')`.
"""

custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)

needs = dict(
    student=['bbox_head'],
    teacher=['bbox_head'],
    heads=dict(bbox_head=['dense', 'distributions']),
)

recipe = dict(
    taps=dict(head='bbox_head'),
    terms=dict(
        loss_ld=dict(
            type='LD', student='head', teacher='t.head', share=1.0, weight=0.25
        ),
        loss_soft=dict(
            type='SoftOutputKD',
            student='head',
            teacher='t.head',
            boxes='off',
            share=1.0,
            weight=0.4,
        ),
    ),
)
