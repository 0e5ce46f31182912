"""M-KD with each term held at a share of the task's gradient, instead of fixed weights.

The shares are those to which the fixed weights come in their first epochs on BCCD
(docs/results/recipes.md, "Gradient shares"). A config takes it as `**_base_.pop('recipe')`.
"""

_base_ = ['mkd_dense.py']
recipe = dict(
    balance=dict(
        type='GradientShare',
        shares=dict(
            loss_soft=5.0, loss_relation=0.03, loss_attention=3.0, loss_feature=2.5
        ),
    ),
)
