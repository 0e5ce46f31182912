"""Clothing: 3,781 pictures of clothes, ten classes, unbalanced.

Data: https://github.com/alexeygrigorev/clothing-dataset-small (CC0), made smaller, at
`data/clothing`, or set CLOTHING_ROOT.
"""
_base_ = 'small_images.py'
data_root = '{{$CLOTHING_ROOT:data/clothing}}'
train_dataloader = dict(dataset=dict(root=data_root + '/train'))
val_dataloader = dict(dataset=dict(root=data_root + '/val'))
test_dataloader = dict(dataset=dict(root=data_root + '/test'))
