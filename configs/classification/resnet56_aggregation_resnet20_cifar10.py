"""Loss aggregation on CIFAR-10: cross entropy, balanced cross entropy and focal loss
together, on the labels and on what ResNet-56 tells ResNet-20.

The teacher is trained as for resnet56_kd_resnet20_cifar10.py.
"""
_base_ = ['resnet56_kd_resnet20_cifar10.py']
# As many images of each class: the counts of `TorchvisionDataset.counts`.
losses = [
    dict(type='CE'),
    dict(type='BalancedCE', counts=[5000] * 10),
    dict(type='Focal', gamma=2.0)
]
weights = [1 / 3, 1 / 3, 1 / 3]
model = dict(
    student=dict(
        loss=dict(type='LossAggregation', losses=losses, weights=weights)),
    terms=dict(
        _delete_=True,
        loss_aggregation=dict(
            type='LossAggregation',
            student='logits',
            teacher='t.logits',
            losses=losses,
            weights=weights,
            tau=4.0)))
