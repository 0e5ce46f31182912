"""The teacher of the ImageNet pair: torchvision's ResNet-34."""
_base_ = ['resnet18_imagenet.py']
model = dict(backbone=dict(name='resnet34'))
