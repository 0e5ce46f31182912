"""DGKD on CIFAR-10: ResNet-56, ResNet-44 and ResNet-32 teach ResNet-20.

    mkd-det chain configs/chain/resnet56-44-32_dgkd_resnet20_cifar10.py

trains all four. Of one that is trained already write the checkpoint beside its `cfg`:
    checkpoint='checkpoints/resnet56_cifar10.pth'
"""
_base_ = ['../_base_/recipes/kd_logits.py']
recipe = dict(probe_size=32)
root = dict(name='t56', cfg='mkd_det::classification/resnet56_cifar10.py')
# Whoever is taught sees several losses: a lower rate than alone.
stages = [
    dict(
        name='a44',
        cfg='mkd_det::classification/resnet44_cifar10.py',
        options={'optim_wrapper.optimizer.lr': 0.02}),
    dict(
        name='a32',
        cfg='mkd_det::classification/resnet32_cifar10.py',
        options={'optim_wrapper.optimizer.lr': 0.02}),
    dict(
        name='s20',
        cfg='mkd_det::classification/resnet20_cifar10.py',
        options={'optim_wrapper.optimizer.lr': 0.02}),
]
guides = 'dense'
lam = 0.5
