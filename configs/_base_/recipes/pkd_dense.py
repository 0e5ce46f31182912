"""PKD: features of the FPN, each channel standardised.

Cao et al., NeurIPS 2022, arXiv 2207.02039. A config takes it as `**_base_.pop('recipe')`.
Where widths differ, a 1x1 convolution leads the student into the teacher's width; where they
do not, the FPNs are compared as they are, as in the paper.
"""

custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)

needs = dict(student=['neck'], teacher=['neck'])

rank = 20

recipe = dict(
    taps=dict(fpn='neck'),
    adapters=dict(align=dict(type='LinearAlign', student='fpn', teacher='t.fpn')),
    terms=dict(
        loss_feature=dict(
            type='FeatureKD',
            form='pearson',
            student='align.student',
            teacher='align.teacher',
            share=14.0,
            weight=200.0,
        )
    ),
)
