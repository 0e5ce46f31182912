"""M-KD for queries (DETR and its kin): matched predictions and features of the neck.

The predictions after DETRDistill (Chang et al., ICCV 2023, arXiv 2211.10156), of all decoder
layers; the neck after PKD (Cao et al., NeurIPS 2022, arXiv 2207.02039), matched by stride.
A config takes it as `**_base_.pop('recipe')`. Classes must be of one kind: DETR's softmax
cannot be compared with the sigmoid of the others.
"""

custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)

needs = dict(
    student=['neck', 'bbox_head'],
    teacher=['neck', 'bbox_head'],
    heads=dict(bbox_head=['queries']),
)

rank = 60

recipe = dict(
    taps=dict(fpn='neck', queries='bbox_head'),
    adapters=dict(align=dict(type='LinearAlign', student='fpn', teacher='t.fpn')),
    terms=dict(
        loss_query=dict(
            type='QueryKD',
            student='queries',
            teacher='t.queries',
            layers='all',
            share=3.0,
            weight=1.0,
        ),
        loss_feature=dict(
            type='FeatureKD',
            form='pearson',
            student='align.student',
            teacher='align.teacher',
            share=2.0,
            weight=10.0,
        ),
    ),
)
