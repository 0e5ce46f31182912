"""DIST on CIFAR-10: ResNet-20 ranks classes and images as ResNet-56 does.

The teacher is trained as for resnet56_kd_resnet20_cifar10.py.
"""
_base_ = ['resnet56_kd_resnet20_cifar10.py']
model = dict(
    terms=dict(
        _delete_=True,
        loss_dist=dict(
            type='DIST', student='logits', teacher='t.logits', tau=4.0)))
