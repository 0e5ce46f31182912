"""PKD: features of the FPN, each channel standardised (Cao et al., NeurIPS 2022, arXiv
2207.02039). A config takes it as `**_base_.pop('recipe')`. The guidance layer leads the
student into the teacher's width; with equal widths write student='fpn',
teacher='t.fpn' in the term, and no adapter, as the paper does."""

custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)

recipe = dict(
    taps=dict(fpn='neck'),
    adapters=dict(
        align=dict(
            type='GuidanceLayer', student='fpn', teacher='t.fpn', teacher_side=False
        )
    ),
    terms=dict(
        loss_feature=dict(
            type='FeatureKD',
            form='pearson',
            student='align.student',
            teacher='align.teacher',
            weight=20.0,
        )
    ),
)
