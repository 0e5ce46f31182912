"""Non-linear feature alignment on CIFAR-10, beside soft outputs: ResNet-56 teaches
ResNet-20, whose aligned features go through the teacher's own classifier, too.

The teacher is trained as for resnet56_kd_resnet20_cifar10.py.
"""
_base_ = ['resnet56_kd_resnet20_cifar10.py']
model = dict(
    taps=dict(feature='head:in'),
    adapters=dict(
        align=dict(
            type='NonLinearAlign',
            student='feature',
            teacher='t.feature',
            reuse_classifier='head')),
    terms=dict(
        loss_align=dict(
            type='FeatureKD',
            student='align.student',
            teacher='align.teacher',
            weight=1.0)))
