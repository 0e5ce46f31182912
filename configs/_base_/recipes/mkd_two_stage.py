"""M-KD for two-stage detectors: soft outputs of both stages (with masks, where both models
have them), relations, attention and features, with guidance and exploration.

For a pair with ResNet and FPN. The weights of relations, attention and features are
those of `mkd_dense.py`; on two-stage detectors none has been measured. A config takes
it as `**_base_.pop('recipe')`.
"""

_base_ = ['soft_two_stage.py']

needs = dict(
    student=[
        'backbone.layer2',
        'backbone.layer3',
        'backbone.layer4',
        'neck.fpn_convs',
        'rpn_head',
        'roi_head.bbox_roi_extractor',
        'roi_head.bbox_head.fc_cls',
    ],
    teacher=[
        'backbone.layer2',
        'backbone.layer3',
        'backbone.layer4',
        'rpn_head',
        'neck',
    ],
)

rank = 60

recipe = dict(
    taps=dict(stages=['backbone.layer2', 'backbone.layer3', 'backbone.layer4']),
    adapters=dict(
        guide=dict(type='GuidanceLayer', student='stages', teacher='t.stages'),
        # The coarsest level is pooled, without a convolution, and is left out.
        guide_fpn=dict(
            type='GuidanceLayer',
            student='explore.inherit',
            teacher='t.fpn',
            teacher_side=False,
        ),
    ),
    branches=dict(explore=dict(type='ExplorationBranch', on='neck.fpn_convs')),
    terms=dict(
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
