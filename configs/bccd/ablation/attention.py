"""M-KD on BCCD, attention maps alone. Data and teacher as for the whole."""

_base_ = ['../gfl_mkd_r18-w64_r18-w16_bccd.py']
model = dict(
    adapters=dict(_delete_=True),
    branches=dict(_delete_=True),
    terms=dict(
        _delete_=True, loss_attention={{_base_.model.terms.loss_attention}}))
