"""The teacher of the CIFAR-10 pair: ResNet-56."""
_base_ = ['resnet20_cifar10.py']
model = dict(backbone=dict(depth=56))
