"""M-KD on the levels of the neck: relations, attention and features, with guidance and
exploration. It does not read the heads, so they may be of two kinds.

The weights were found on BCCD and playing cards (docs/results/mkd.md). A config takes it as
`**_base_.pop('recipe')`. To change one number there, write a line such as
    _base_.recipe.terms.loss_relation.weight = 10.0
before it, or in a config that inherits from yours
    model = dict(terms=dict(loss_relation=dict(weight=10.0)))
"""

custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)

needs = dict(student=['neck.fpn_convs'], teacher=['neck'])

rank = 30

recipe = dict(
    taps=dict(fpn='neck'),
    # Without the exploration branch: student='fpn'.
    adapters=dict(
        guide_fpn=dict(
            type='GuidanceLayer',
            student='explore.inherit',
            teacher='t.fpn',
            teacher_side=False,
        ),
    ),
    branches=dict(explore=dict(type='ExplorationBranch', on='neck.fpn_convs')),
    terms=dict(
        # Between positions of the student's own levels: through a trained layer, the
        # layer would learn the relations instead of the student.
        loss_relation=dict(
            type='RelationKD',
            relation='spatial',
            student='fpn',
            teacher='t.fpn',
            share=1.0,
            weight=30.0,
        ),
        loss_attention=dict(
            type='AttentionKD', student='fpn', teacher='t.fpn', share=0.9, weight=6.0
        ),
        loss_feature=dict(
            type='FeatureKD',
            student='guide_fpn.student',
            teacher='guide_fpn.teacher',
            share=1.5,
            weight=10.0,
        ),
    ),
)
