"""M-KD with FGD's objects beside it: both compare the FPN, FGD object by object
(docs/methods.md, part J). A config takes it as `**_base_.pop('recipe')`."""

_base_ = ['mkd_dense.py']
recipe = dict(
    terms=dict(loss_fgd=dict(type='FGD', student='fpn', teacher='t.fpn', weight=0.1)),
)
