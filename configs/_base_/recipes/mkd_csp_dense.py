"""M-KD for one-stage detectors with a PAFPN: YOLOX, RTMDet, RTMDet-Ins.

`mkd_dense.py` with the exploration branch beside that neck's output convolutions, and twice
the share for soft outputs. The weights give these shares for RTMDet on playing cards
(docs/results/families.md). A config takes it as `**_base_.pop('recipe')`.
"""

_base_ = ['mkd_dense.py']

needs = dict(student=['neck.out_convs', 'bbox_head'])

rank = 60

recipe = dict(
    branches=dict(explore=dict(on='neck.out_convs')),
    terms=dict(
        loss_relation=dict(weight=7.5),
        loss_attention=dict(weight=2.3),
        loss_feature=dict(weight=9.0),
        loss_soft=dict(share=1.0, weight=0.4),
    ),
)
