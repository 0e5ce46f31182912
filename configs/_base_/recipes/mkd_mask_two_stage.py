"""M-KD for Mask R-CNN: `mkd_two_stage.py`, and the masks of the student's positive
proposals.

Both models need a mask head. The weights have not been measured. A config takes it as
`**_base_.pop('recipe')`.
"""

_base_ = ['mkd_two_stage.py']

needs = dict(
    student=[
        'backbone.layer2',
        'backbone.layer3',
        'backbone.layer4',
        'neck.fpn_convs',
        'rpn_head',
        'roi_head.bbox_roi_extractor',
        'roi_head.bbox_head.fc_cls',
        'roi_head.bbox_head.loss_cls',
        'roi_head.mask_roi_extractor',
        'roi_head.mask_head.conv_logits',
    ],
    teacher=[
        'backbone.layer2',
        'backbone.layer3',
        'backbone.layer4',
        'rpn_head',
        'neck',
    ],
)

rank = 70

recipe = dict(
    taps=dict(
        mask_rois='roi_head.mask_roi_extractor:in1',
        masks='roi_head.mask_head',
        labels='roi_head.bbox_head.loss_cls:in1',
    ),
    adapters=dict(
        mask_regions=dict(type='ProposalMasks', student='mask_rois', teacher='t.fpn')
    ),
    terms=dict(
        loss_soft_masks=dict(
            type='ProposalMaskKD',
            student='masks',
            teacher='mask_regions.teacher',
            labels='labels',
            share=1.0,
            weight=1.0,
        )
    ),
)
