"""MGD: the teacher's FPN, generated from a part of the student's.

Yang et al., ECCV 2022, arXiv 2205.01529. A config takes it as `**_base_.pop('recipe')`. For
two-stage detectors the paper has hidden=0.45.
"""

custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)

needs = dict(student=['neck'], teacher=['neck'])

recipe = dict(
    taps=dict(fpn='neck'),
    adapters=dict(
        generate=dict(
            type='MaskedGeneration', student='fpn', teacher='t.fpn', hidden=0.65
        )
    ),
    terms=dict(
        loss_feature=dict(
            type='FeatureKD',
            form='l2',
            student='generate.student',
            teacher='generate.teacher',
            share=26.0,
            weight=20.0,
        )
    ),
)
