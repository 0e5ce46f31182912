"""Soft outputs of image classifiers at temperature 4.

A config takes it as `**_base_.pop('recipe')`. To change one number there, write a line
such as
    _base_.recipe.terms.loss_soft.tau = 2.0
before it. Configs of classifiers import mkd_det themselves.
"""

needs = dict(student=['head'], teacher=['head'])

rank = 10

recipe = dict(
    taps=dict(logits='head'),
    terms=dict(
        loss_soft=dict(
            type='SoftOutputKD',
            student='logits',
            teacher='t.logits',
            tau=4.0,
            share=2.0,
        )
    ),
)
