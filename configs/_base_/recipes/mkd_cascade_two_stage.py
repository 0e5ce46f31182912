"""M-KD for a cascade that teaches another one: soft outputs of all stages (with masks,
where both models have them), relations, attention and features, with guidance
and exploration.

For a pair with FPN. The weights of relations, attention and features are those of
`mkd_two_stage.py`, for a student of one stage; on cascades none has been measured. A config
takes it as `**_base_.pop('recipe')`.
"""

_base_ = ['soft_cascade_two_stage.py']

needs = dict(
    student=[
        'neck.fpn_convs',
        'rpn_head',
        'roi_head.bbox_roi_extractor.0',
        'roi_head.bbox_head.0',
    ],
    teacher=['rpn_head', 'neck'],
)

rank = 60

recipe = dict(
    adapters=dict(
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
            relation='spatial',
            student='fpn',
            teacher='t.fpn',
            share=1.0,
            weight=7.0,
        ),
        loss_attention=dict(
            type='AttentionKD', student='fpn', teacher='t.fpn', share=0.9, weight=3.0
        ),
        loss_feature=dict(
            type='FeatureKD',
            student='guide_fpn.student',
            teacher='guide_fpn.teacher',
            share=1.5,
            weight=6.5,
        ),
    ),
)
