"""M-KD with each term held at its share of the task's gradient, instead of fixed weights.

The shares are those of `mkd_dense.py`. A config takes it as `**_base_.pop('recipe')`.
For fixed weights that give the same shares: mkd-det calibrate.
"""

_base_ = ['mkd_dense.py']
rank = 0

recipe = dict(balance=dict(type='GradientShare'))
