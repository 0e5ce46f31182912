"""M-KD with each term held at a share of the task's gradient, in place of fixed weights
(docs/methods.md, "Gradient shares"). The shares are those that the fixed weights come to
in their first epochs on BCCD. A config takes it as `**_base_.pop('recipe')`."""

_base_ = ['mkd_dense.py']
recipe = dict(
    balance=dict(
        type='GradientShare',
        shares=dict(
            loss_soft=5.0, loss_relation=0.03, loss_attention=3.0, loss_feature=2.5
        ),
    ),
)
