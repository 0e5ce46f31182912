"""Soft outputs of a cascade of three stages that teaches another one: RPN, and classes
and boxes of each stage.

Stage i of the teacher runs on the proposals of the student's stage i. The weights of
the stages are those of the student's own losses; they have not been measured. A config
takes it as `**_base_.pop('recipe')`. For a student of one stage: `soft_two_stage.py`.
"""

custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)

needs = dict(
    student=[
        'rpn_head',
        'roi_head.bbox_roi_extractor.0',
        'roi_head.bbox_roi_extractor.1',
        'roi_head.bbox_roi_extractor.2',
        'roi_head.bbox_head.0',
        'roi_head.bbox_head.1',
        'roi_head.bbox_head.2',
    ],
    teacher=['rpn_head', 'neck'],
    heads={'rpn_head': ['dense', 'sigmoid'], 'roi_head.bbox_head': ['regions']},
)

rank = 45

recipe = dict(
    taps=dict(
        fpn='neck',
        rpn='rpn_head',
        rois_0='roi_head.bbox_roi_extractor.0:in1',
        rois_1='roi_head.bbox_roi_extractor.1:in1',
        rois_2='roi_head.bbox_roi_extractor.2:in1',
        box_head_0='roi_head.bbox_head.0',
        box_head_1='roi_head.bbox_head.1',
        box_head_2='roi_head.bbox_head.2',
    ),
    adapters=dict(
        regions_0=dict(type='RegionHead', student='rois_0', teacher='t.fpn', stage=0),
        regions_1=dict(type='RegionHead', student='rois_1', teacher='t.fpn', stage=1),
        regions_2=dict(type='RegionHead', student='rois_2', teacher='t.fpn', stage=2),
    ),
    terms=dict(
        loss_soft_rpn=dict(
            type='SoftOutputKD',
            student='rpn',
            teacher='t.rpn',
            share=1.0,
            weight=0.4,
        ),
        loss_soft_regions_0=dict(
            type='ProposalKD',
            student='box_head_0',
            teacher='regions_0.teacher',
            share=1.0,
            weight=1.0,
        ),
        loss_soft_regions_1=dict(
            type='ProposalKD',
            student='box_head_1',
            teacher='regions_1.teacher',
            share=0.5,
            weight=0.5,
        ),
        loss_soft_regions_2=dict(
            type='ProposalKD',
            student='box_head_2',
            teacher='regions_2.teacher',
            share=0.25,
            weight=0.25,
        ),
    ),
)
