"""M-KD on BCCD, relations alone. Data and teacher as for the whole."""

_base_ = ['../gfl_mkd_r18-w64_r18-w16_bccd.py']
model = dict(
    adapters=dict(_delete_=True),
    branches=dict(_delete_=True),
    terms=dict(_delete_=True, loss_relation={{_base_.model.terms.loss_relation}}))
