"""Soft outputs of the head alone, classes and boxes, with M-KD's weights.

See docs/methods/mkd.md, "Soft outputs". A config takes it as `**_base_.pop('recipe')`.
"""

custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)

needs = dict(
    student=['bbox_head'],
    teacher=['bbox_head'],
    heads=dict(bbox_head=['dense', 'sigmoid']),
)

rank = 40

recipe = dict(
    taps=dict(head='bbox_head'),
    terms=dict(
        loss_soft=dict(
            type='SoftOutputKD',
            student='head',
            teacher='t.head',
            balance=1.0,
            share=3.0,
            weight=0.8,
        )
    ),
)
