"""CWD: each channel of the FPN as a distribution over places (Shu et al., ICCV 2021,
arXiv 2011.13256). A config takes it as `**_base_.pop('recipe')`. The guidance layer leads
the student into the teacher's width; with equal widths write student='fpn',
teacher='t.fpn' in the term, and no adapter."""

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
            form='channel',
            tau=1.0,
            student='align.student',
            teacher='align.teacher',
            weight=50.0,
        )
    ),
)
