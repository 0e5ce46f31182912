"""ResNet-20 on CIFAR-10 with filters along rows: 1x3 for 3x3."""
_base_ = ['resnet20_cifar10.py']
model = dict(_delete_=True, type='RowModel', model={{_base_.model}}, on='backbone')
