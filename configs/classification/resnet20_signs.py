"""Hand signs of the ten digits: ResNet-20, the student."""
_base_ = [
    '../_base_/models/cifar_resnet.py', '../_base_/datasets/signs.py',
    '../_base_/schedules/sgd_15e_cifar.py',
    'mmdet::_base_/default_runtime.py'
]
custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)
model = dict(num_classes=10)
# As many steps as 15 epochs of 5 000 images.
epochs = 63
train_cfg = dict(max_epochs=epochs, val_interval=epochs // 3)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.1,
        begin=0,
        end=1,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=0,
        begin=1,
        end=epochs,
        convert_to_iter_based=True)
]
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1))
