"""DLKD on BCCD: at each place that the teacher is sure of, a temperature that goes with
how far its pruned self is from it. Data and teacher as for the whole."""

_base_ = ['soft.py']
model = dict(
    teachers=dict(pruned=dict(prune_of='t', prune=0.3)),
    terms=dict(
        _delete_=True,
        loss_dlkd=dict(
            type='DLKD',
            student='head',
            teacher='t.head',
            pruned='pruned.head')))
custom_hooks = [dict(type='DifficultyHook')]
