"""DIST: correlations of class probabilities on the student's proposals.

Huang et al., NeurIPS 2022, arXiv 2205.10536. For two-stage detectors. A config takes it as
`**_base_.pop('recipe')`.
"""

_base_ = ['dkd_two_stage.py']

needs = dict(student=['roi_head.bbox_roi_extractor', 'roi_head.bbox_head.fc_cls'])

recipe = dict(
    terms=dict(
        _delete_=True,
        loss_dist=dict(
            type='DIST',
            student='classes',
            teacher='proposals.teacher',
            share=1.0,
            weight=1.0,
        ),
    ),
)
