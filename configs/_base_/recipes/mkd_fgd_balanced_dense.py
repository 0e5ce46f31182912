"""M-KD and FGD with each term held at its share of the task's gradient.

See docs/results/recipes.md, "Gradient shares". A config takes it as
`**_base_.pop('recipe')`.
"""

_base_ = ['mkd_fgd_dense.py']
rank = 0

recipe = dict(balance=dict(type='GradientShare'))
