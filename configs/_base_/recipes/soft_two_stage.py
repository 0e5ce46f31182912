"""Soft outputs of both stages of a two-stage detector: RPN, classes, boxes, masks.

The teacher's second stage runs on the student's proposals; a cascade as teacher runs
once, as in prediction. Masks are compared where both models have them. Chen et al., NIPS
2017; see docs/methods/outputs.md. The weights give these shares on playing cards
(docs/results/families.md). A config takes it as `**_base_.pop('recipe')`.
"""

custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)

needs = dict(
    student=['rpn_head', 'roi_head.bbox_roi_extractor', 'roi_head.bbox_head.fc_cls'],
    teacher=['rpn_head', 'neck'],
    heads={'rpn_head': ['dense', 'sigmoid'], 'roi_head.bbox_head': ['regions']},
)

rank = 40

recipe = dict(
    taps=dict(
        fpn='neck',
        rpn='rpn_head',
        rois='roi_head.bbox_roi_extractor:in1',
        box_head='roi_head.bbox_head',
        mask_rois='roi_head.mask_roi_extractor:in1',
        masks='roi_head.mask_head',
        labels='roi_head.bbox_head.loss_cls:in1',
    ),
    adapters=dict(
        regions=dict(type='RegionHead', student='rois', teacher='t.fpn'),
        mask_regions=dict(type='ProposalMasks', student='mask_rois', teacher='t.fpn'),
    ),
    terms=dict(
        loss_soft_rpn=dict(
            type='SoftOutputKD',
            student='rpn',
            teacher='t.rpn',
            share=0.3,
            weight=0.08,
        ),
        loss_soft_regions=dict(
            type='ProposalKD',
            student='box_head',
            teacher='regions.teacher',
            share=0.6,
            weight=1.0,
        ),
        loss_soft_masks=dict(
            type='ProposalMaskKD',
            student='masks',
            teacher='mask_regions.teacher',
            labels='labels',
            share=1.0,
            weight=1.0,
            # A cascade has a mask head for each stage.
            only_with=[
                'roi_head.mask_head.conv_logits|roi_head.mask_head.0.conv_logits',
                'roi_head.mask_roi_extractor',
            ],
        ),
    ),
)
