"""Loss aggregation on BCCD: the class part of the soft outputs as binary cross entropy
and focal loss together. Data and teacher as for the whole."""

_base_ = ['soft.py']
model = dict(
    terms=dict(
        _delete_=True,
        loss_aggregation=dict(
            type='LossAggregation',
            student='head',
            teacher='t.head',
            weight=0.4,
            losses=[
                dict(type='BinaryCE'),
                dict(type='Focal', use_sigmoid=True, alpha=None)
            ],
            weights=[0.5, 0.5])))
