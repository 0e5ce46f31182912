"""M-KD: soft outputs, relations, attention and features, with guidance and exploration.

For a pair of one-stage detectors with ResNet and FPN. The weights were found on BCCD
(docs/results/mkd.md); on other data they have not been measured. A config takes it as
`**_base_.pop('recipe')`. To change one number there, write a line such as
    _base_.recipe.terms.loss_soft.weight = 2.0
before it, or in a config that inherits from yours
    model = dict(terms=dict(loss_soft=dict(weight=2.0)))
"""

custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)

needs = dict(
    student=[
        'backbone.layer2',
        'backbone.layer3',
        'backbone.layer4',
        'neck.fpn_convs',
        'bbox_head',
    ],
    teacher=[
        'backbone.layer2',
        'backbone.layer3',
        'backbone.layer4',
        'neck',
        'bbox_head',
    ],
    heads=dict(bbox_head=['dense', 'sigmoid']),
)

rank = 60

recipe = dict(
    taps=dict(
        # Not layer1: stock configs freeze it, so no gradient would reach it, and
        # at stride 4 a guidance layer costs as much as all the others together.
        # For a backbone that is no ResNet write its own modules, or 'backbone'.
        stages=['backbone.layer2', 'backbone.layer3', 'backbone.layer4'],
        fpn='neck',
        head='bbox_head',
    ),
    adapters=dict(
        guide=dict(type='GuidanceLayer', student='stages', teacher='t.stages'),
        # Without the exploration branch: student='fpn'.
        guide_fpn=dict(
            type='GuidanceLayer',
            student='explore.inherit',
            teacher='t.fpn',
            teacher_side=False,
        ),
    ),
    branches=dict(explore=dict(type='ExplorationBranch', on='neck.fpn_convs')),
    terms=dict(
        loss_soft=dict(
            type='SoftOutputKD',
            student='head',
            teacher='t.head',
            balance=1.0,
            share=3.0,
            weight=0.8,
        ),
        loss_relation=dict(
            type='RelationKD',
            student='guide.student',
            teacher='guide.teacher',
            share=0.04,
            weight=0.5,
        ),
        loss_attention=dict(
            type='AttentionKD',
            student='stages',
            teacher='t.stages',
            share=2.5,
            weight=8.0,
        ),
        loss_feature=dict(
            type='FeatureKD',
            student='guide_fpn.student',
            teacher='guide_fpn.teacher',
            share=2.0,
            weight=20.0,
        ),
    ),
)
