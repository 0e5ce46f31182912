"""Soft outputs on CIFAR-100: ResNet-56 teaches ResNet-20. Data: torchvision's.

Train the teacher
    python tools/train.py configs/classification/resnet56_cifar100.py
and copy its last epoch to checkpoints/resnet56_cifar100.pth.
"""
_base_ = ['resnet20_cifar100.py', '../_base_/recipes/kd_logits.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(
        t=dict(
            cfg='mkd_det::classification/resnet56_cifar100.py',
            checkpoint='checkpoints/resnet56_cifar100.pth')),
    **_base_.pop('recipe'),
    probe_size=32)
# At tau 4 the soft outputs weigh several times as much as the labels.
optim_wrapper = dict(optimizer=dict(lr=0.02))
