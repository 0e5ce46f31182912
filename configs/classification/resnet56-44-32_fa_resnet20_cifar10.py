"""Non-linear feature alignment with three teachers on CIFAR-10: ResNet-56, ResNet-44
and ResNet-32 teach ResNet-20. Who is right about an image, and sure, counts more.

The teachers are trained as for resnet56_kd_resnet20_cifar10.py, with backbone.depth.
"""
_base_ = ['resnet20_cifar10.py']
depths = (56, 44, 32)
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers={
        f't{depth}': dict(
            cfg=f'mkd_det::classification/resnet{depth}_cifar10.py',
            checkpoint=f'checkpoints/resnet{depth}_cifar10.pth')
        for depth in depths
    },
    taps=dict(logits='head', feature='head:in'),
    adapters={
        f'align{depth}': dict(
            type='NonLinearAlign',
            student='feature',
            teacher=f't{depth}.feature',
            reuse_classifier='head',
            weight=1 / 3)
        for depth in depths
    },
    terms={
        **{
            f'loss_soft{depth}': dict(
                type='SoftOutputKD',
                student='logits',
                teacher=f't{depth}.logits',
                tau=4.0,
                weight=1 / 3)
            for depth in depths
        },
        **{
            f'loss_align{depth}': dict(
                type='FeatureKD',
                student=f'align{depth}.student',
                teacher=f'align{depth}.teacher',
                weight=1 / 3)
            for depth in depths
        }
    },
    teacher_weights=dict(tap='logits'),
    probe_size=32)
del depths
