"""M-KD for detectors with CSPDarknet or CSPNeXt and a PAFPN: YOLOX, RTMDet, RTMDet-Ins.

`mkd_dense.py` with their names of modules: three stages of the backbone and the neck's
output convolutions. The weights are those of `mkd_dense.py`. A config takes it as
`**_base_.pop('recipe')`. It also fits a teacher of another backbone, if that one's stages
are named in `teachers.t.taps`.
"""

_base_ = ['mkd_dense.py']

needs = dict(
    student=[
        'backbone.stage2',
        'backbone.stage3',
        'backbone.stage4',
        'neck.out_convs',
        'bbox_head',
    ],
    teacher=[
        'backbone.stage2',
        'backbone.stage3',
        'backbone.stage4',
        'neck',
        'bbox_head',
    ],
)

rank = 60

recipe = dict(
    taps=dict(stages=['backbone.stage2', 'backbone.stage3', 'backbone.stage4']),
    branches=dict(explore=dict(on='neck.out_convs')),
)
