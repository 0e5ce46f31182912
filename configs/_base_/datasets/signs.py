"""Signs: 2,062 hands that show the ten digits.

Data: https://github.com/ardamavi/Sign-Language-Digits-Dataset (Apache-2.0), split into
train, val and test, at `data/signs`, or set SIGNS_ROOT.
"""
_base_ = 'small_images.py'
data_root = '{{$SIGNS_ROOT:data/signs}}'
train_dataloader = dict(dataset=dict(root=data_root + '/train'))
val_dataloader = dict(dataset=dict(root=data_root + '/val'))
test_dataloader = dict(dataset=dict(root=data_root + '/test'))
