"""M-KD and FGD, each term at a wanted share of the task's gradient (docs/methods.md,
"Gradient shares"). A config takes it as `**_base_.pop('recipe')`."""

_base_ = ['mkd_fgd_dense.py']
recipe = dict(balance=dict(type='GradientShare', shares=0.5))
