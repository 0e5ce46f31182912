"""The student of the ImageNet pair, alone: torchvision's ResNet-18."""
_base_ = [
    '../_base_/models/torchvision_classifier.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/sgd_90e_imagenet.py',
    'mmdet::_base_/default_runtime.py'
]
custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1))
