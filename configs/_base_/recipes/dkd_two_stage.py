"""DKD: class probabilities on the student's proposals, target and other classes apart.

Zhao et al., CVPR 2022, arXiv 2203.08679. For two-stage detectors. A config takes it as
`**_base_.pop('recipe')`.
"""

custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)

needs = dict(
    student=[
        'roi_head.bbox_roi_extractor',
        'roi_head.bbox_head.fc_cls',
        'roi_head.bbox_head.loss_cls',
    ],
    teacher=['neck'],
    heads={'roi_head.bbox_head': ['regions']},
)

recipe = dict(
    taps=dict(
        pyramid='neck',
        rois='roi_head.bbox_roi_extractor:in1',
        classes='roi_head.bbox_head.fc_cls',
        labels='roi_head.bbox_head.loss_cls:in1',
    ),
    adapters=dict(
        proposals=dict(type='ProposalHead', student='rois', teacher='t.pyramid')
    ),
    terms=dict(
        loss_dkd=dict(
            type='ProposalDKD',
            student='classes',
            teacher='proposals.teacher',
            labels='labels',
            share=1.0,
            weight=1.0,
        )
    ),
)
