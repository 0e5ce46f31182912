"""CWD: each channel of the FPN as a distribution over positions.

Shu et al., ICCV 2021, arXiv 2011.13256. The rest is as in PKD's recipe. A config takes it as
`**_base_.pop('recipe')`.
"""

_base_ = ['pkd_dense.py']
recipe = dict(
    terms=dict(loss_feature=dict(form='channel', tau=1.0, share=15.0, weight=200.0)),
)
