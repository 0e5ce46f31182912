"""M-KD on BCCD without guidance and exploration: soft outputs, relation and
attention maps. Data and teacher as for the whole."""

_base_ = ['../gfl_mkd_r18-w64_r18-w16_bccd.py']
model = dict(
    adapters=dict(_delete_=True),
    branches=dict(_delete_=True),
    terms=dict(
        _delete_=True,
        loss_soft={{_base_.model.terms.loss_soft}},
        loss_relation={{_base_.model.terms.loss_relation}},
        loss_attention={{_base_.model.terms.loss_attention}}))
