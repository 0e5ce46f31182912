"""The teacher of the CIFAR-100 pair: ResNet-56. Data: torchvision's."""
_base_ = ['resnet20_cifar100.py']
model = dict(backbone=dict(depth=56))
