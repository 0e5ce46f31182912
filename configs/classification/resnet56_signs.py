"""Hand signs of the ten digits: ResNet-56, the teacher."""
_base_ = ['resnet20_signs.py']
model = dict(backbone=dict(depth=56))
