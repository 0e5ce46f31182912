"""A further teacher for CIFAR-10: ResNet-44."""
_base_ = ['resnet20_cifar10.py']
model = dict(backbone=dict(depth=44))
