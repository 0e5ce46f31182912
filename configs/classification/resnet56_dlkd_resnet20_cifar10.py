"""DLKD on CIFAR-10: ResNet-56 and its pruned self teach ResNet-20, each image at a
temperature of its own.

The teacher is trained as for resnet56_kd_resnet20_cifar10.py.
"""
_base_ = ['resnet56_kd_resnet20_cifar10.py']
model = dict(
    teachers=dict(pruned=dict(prune_of='t', prune=0.5)),
    terms=dict(
        _delete_=True,
        loss_dlkd=dict(
            type='DLKD',
            student='logits',
            teacher='t.logits',
            pruned='pruned.logits',
            tau_min=2.0,
            tau_max=6.0)))
custom_hooks = [dict(type='DifficultyHook')]
