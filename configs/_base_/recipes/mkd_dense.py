"""M-KD: soft outputs, relations, attention and features, with guidance and exploration.

For a pair of one-stage detectors with an FPN, whatever their backbones. The weights were
found on BCCD and playing cards (docs/results/mkd.md). A config takes it as
`**_base_.pop('recipe')`; see `mkd_neck.py`, which it adds soft outputs to.
"""

_base_ = ['mkd_neck.py']

needs = dict(
    student=['neck.fpn_convs', 'bbox_head'],
    teacher=['neck', 'bbox_head'],
    heads=dict(bbox_head=['dense', 'sigmoid']),
)

rank = 60

recipe = dict(
    taps=dict(head='bbox_head'),
    terms=dict(
        loss_soft=dict(
            type='SoftOutputKD',
            student='head',
            teacher='t.head',
            balance=1.0,
            share=0.5,
            weight=0.15,
        ),
    ),
)
