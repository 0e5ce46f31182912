"""M-KD for one-stage detectors with a PAFPN: YOLOX, RTMDet, RTMDet-Ins.

`mkd_dense.py` with the exploration branch beside that neck's output convolutions. The
weights are those of `mkd_dense.py`. A config takes it as `**_base_.pop('recipe')`.
"""

_base_ = ['mkd_dense.py']

needs = dict(student=['neck.out_convs', 'bbox_head'])

rank = 60

recipe = dict(branches=dict(explore=dict(on='neck.out_convs')))
