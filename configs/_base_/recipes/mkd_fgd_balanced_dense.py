"""M-KD and FGD, each term held at a share of the task's gradient, as in
mkd_balanced_dense.py. A config takes it as `**_base_.pop('recipe')`."""

_base_ = ['mkd_fgd_dense.py']
recipe = dict(
    balance=dict(
        type='GradientShare',
        shares=dict(
            loss_soft=5.0,
            loss_relation=0.03,
            loss_attention=3.0,
            loss_feature=2.5,
            loss_fgd=2.5,
        ),
    ),
)
