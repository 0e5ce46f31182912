"""The student of the CIFAR-100 pair, alone: ResNet-20. Data: torchvision's."""
_base_ = [
    '../_base_/models/cifar_resnet.py', '../_base_/datasets/cifar100.py',
    '../_base_/schedules/sgd_15e_cifar.py',
    'mmdet::_base_/default_runtime.py'
]
custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)
model = dict(num_classes=100)
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1))
