"""Soft outputs on CIFAR-10: ResNet-56 teaches ResNet-20.

Train the teacher
    python tools/train.py configs/classification/resnet56_cifar10.py
and copy its last epoch to checkpoints/resnet56_cifar10.pth. Or take weights of
https://github.com/akamaster/pytorch_resnet_cifar10 and tell how theirs are called:
    teachers=dict(t=dict(checkpoint='resnet56-4bfd9763.th', revise_keys=[
        (r'^module\\.', ''), ('^linear', 'head'),
        ('^(conv1|bn1|layer)', r'backbone.\\1')]))
"""
_base_ = ['resnet20_cifar10.py', '../_base_/recipes/kd_logits.py']
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
