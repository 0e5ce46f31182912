"""A further teacher for CIFAR-10: ResNet-32."""
_base_ = ['resnet20_cifar10.py']
model = dict(backbone=dict(depth=32))
