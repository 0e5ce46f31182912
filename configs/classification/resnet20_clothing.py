"""Clothes, ten kinds, unbalanced: ResNet-20, the student."""
_base_ = [
    '../_base_/models/cifar_resnet.py', '../_base_/datasets/clothing.py',
    '../_base_/schedules/sgd_30e_small_images.py',
    'mmdet::_base_/default_runtime.py'
]
custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)
model = dict(num_classes=10)
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1))
