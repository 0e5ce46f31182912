"""DKD on CIFAR-10: ResNet-56 teaches ResNet-20, the label and the rest apart.

The teacher is trained as for resnet56_kd_resnet20_cifar10.py.
"""
_base_ = ['resnet56_kd_resnet20_cifar10.py']
model = dict(
    terms=dict(
        _delete_=True,
        loss_dkd=dict(
            type='DKD',
            student='logits',
            teacher='t.logits',
            beta=2.0,
            tau=4.0)))
