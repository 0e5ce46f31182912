"""Clothes, ten kinds, unbalanced: ResNet-56, the teacher."""
_base_ = ['resnet20_clothing.py']
model = dict(backbone=dict(depth=56))
