"""M-KD on BCCD, relation alone: between positions, which needs no guidance.

Data and teacher as for the whole.
"""

_base_ = ['../gfl_mkd_r18-w64_r18-w16_bccd.py']
model = dict(
    adapters=dict(_delete_=True),
    branches=dict(_delete_=True),
    terms=dict(
        _delete_=True,
        loss_relation=dict(
            type='RelationKD',
            relation='spatial',
            student='stages',
            teacher='t.stages',
            weight={{_base_.model.terms.loss_relation.weight}})))
