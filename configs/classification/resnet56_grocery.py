"""Groceries, 81 kinds: ResNet-56, the teacher."""
_base_ = ['resnet20_grocery.py']
model = dict(backbone=dict(depth=56))
