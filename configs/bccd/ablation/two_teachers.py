"""Soft outputs of two teachers on BCCD. Data as for the whole.

The second teacher is the first with another seed: train it with
    python tools/train.py configs/bccd/gfl_r18-w64_bccd.py --cfg-options randomness.seed=1
and copy its last epoch to checkpoints/gfl_r18-w64_seed1_bccd.pth.
"""

_base_ = ['soft.py']
model = dict(
    teachers=dict(
        a=dict(
            cfg='mkd_det::bccd/gfl_r18-w64_bccd.py',
            checkpoint='checkpoints/gfl_r18-w64_seed1_bccd.pth')),
    terms=dict(
        loss_soft=dict(weight=0.4),
        loss_soft_a=dict(
            type='SoftOutputKD',
            student='head',
            teacher='a.head',
            balance=1.0,
            weight=0.4)))
