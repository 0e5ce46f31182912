"""Two teachers of two architectures: ResNet-56 and torchvision's MobileNetV3-Small
teach ResNet-20.

The teachers are trained with resnet56_cifar10.py and mobilenetv3_cifar10.py.
"""
_base_ = ['resnet56_kd_resnet20_cifar10.py']
model = dict(
    teachers=dict(
        m=dict(
            cfg='mkd_det::classification/mobilenetv3_cifar10.py',
            checkpoint='checkpoints/mobilenetv3_cifar10.pth')),
    terms=dict(
        loss_soft=dict(weight=0.5),
        loss_soft_m=dict(
            type='SoftOutputKD',
            student='logits',
            teacher='m.logits',
            tau=4.0,
            weight=0.5)),
    teacher_weights=dict(tap='logits'))
