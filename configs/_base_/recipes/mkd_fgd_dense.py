"""M-KD with FGD beside it.

Both compare the FPN, FGD object by object (docs/results/recipes.md, "By class"). A config
takes it as `**_base_.pop('recipe')`.
"""

_base_ = ['mkd_dense.py']
rank = 0

recipe = dict(
    terms=dict(
        loss_fgd=dict(
            type='FGD', student='fpn', teacher='t.fpn', share=2.8, weight=0.1
        )
    ),
)
