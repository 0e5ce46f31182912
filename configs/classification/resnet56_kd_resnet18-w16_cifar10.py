"""Soft outputs on CIFAR-10: ResNet-56 teaches what becomes a detector's backbone.

The teacher is trained as for resnet56_kd_resnet20_cifar10.py. Copy the student
(student_last.pth in the work dir) to checkpoints/resnet18-w16_cifar10.pth for
../bccd/gfl_mkd_r18-w64_r18-w16-cifar_bccd.py.
"""
_base_ = ['resnet18-w16_cifar10.py', '../_base_/recipes/kd_logits.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(
        t=dict(
            cfg='mkd_det::classification/resnet56_cifar10.py',
            checkpoint='checkpoints/resnet56_cifar10.pth')),
    **_base_.pop('recipe'),
    probe_size=32)
# At tau 4 the soft outputs weigh several times as much as the labels.
optim_wrapper = dict(optimizer=dict(lr=0.02))
