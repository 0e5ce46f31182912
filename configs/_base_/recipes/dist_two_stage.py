"""DIST: the student ranks its proposals, and their classes, as the teacher does (Huang
et al., NeurIPS 2022, arXiv 2205.10536). For two-stage detectors. A config takes it as
`**_base_.pop('recipe')`."""

custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)

recipe = dict(
    taps=dict(
        pyramid='neck',
        rois='roi_head.bbox_roi_extractor:in1',
        classes='roi_head.bbox_head.fc_cls',
    ),
    adapters=dict(
        proposals=dict(type='ProposalHead', student='rois', teacher='t.pyramid')
    ),
    terms=dict(
        loss_dist=dict(
            type='DIST', student='classes', teacher='proposals.teacher', weight=1.0
        )
    ),
)
