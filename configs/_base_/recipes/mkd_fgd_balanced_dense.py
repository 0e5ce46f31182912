"""M-KD and FGD with each term held at a share of the task's gradient.

See docs/results/recipes.md, "Gradient shares". A config takes it as
`**_base_.pop('recipe')`.
"""

_base_ = ['mkd_balanced_dense.py']
recipe = dict(
    terms=dict(loss_fgd=dict(type='FGD', student='fpn', teacher='t.fpn')),
    balance=dict(shares=dict(loss_fgd=2.5)),
)
