"""ResNet-56 teaches ResNet-20: cross entropy and one against the rest together, on the
labels and on what the teacher says.

The teacher is trained as for resnet56_kd_resnet20_cifar10.py.
"""
_base_ = ['resnet56_kd_resnet20_cifar10.py']
losses = [dict(type='CE'), dict(type='BinaryCE')]
model = dict(
    student=dict(
        loss=dict(type='LossAggregation', losses=losses, weights=[0.5, 0.5])),
    terms=dict(
        _delete_=True,
        loss_aggregation=dict(
            type='LossAggregation',
            student='logits',
            teacher='t.logits',
            losses=losses,
            weights=[0.5, 0.5],
            tau=4.0)))
