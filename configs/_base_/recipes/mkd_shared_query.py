"""M-KD for queries (DETR and its kin): both decoders run on the teacher's queries.

The predictions after KD-DETR (Wang et al., CVPR 2024, arXiv 2211.08071), of all decoder
layers, weighted by the teacher's confidence; the neck after PKD (Cao et al., NeurIPS 2022,
arXiv 2207.02039), matched by stride. Both models must start from queries of one kind; for
other pairs take `mkd_query.py`, which matches predictions. A config takes it as
`**_base_.pop('recipe')`.
"""

custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)

needs = dict(
    student=['neck', 'decoder'],
    teacher=['neck', 'decoder'],
    heads=dict(bbox_head=['queries']),
)

rank = 0

recipe = dict(
    taps=dict(fpn='neck', decoder='decoder:call'),
    adapters=dict(
        align=dict(type='LinearAlign', student='fpn', teacher='t.fpn'),
        shared=dict(
            type='SharedQueries',
            student='decoder',
            teacher='t.decoder',
            sampling='specific',
        ),
    ),
    terms=dict(
        loss_query=dict(
            type='QueryKD',
            student='shared.student',
            teacher='shared.teacher',
            layers='all',
            negatives=0.0,
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
