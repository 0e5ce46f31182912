"""M-KD on BCCD for a student whose backbone was distilled on CIFAR-10 before.

Data and teacher as for gfl_mkd_r18-w64_r18-w16_bccd.py. The backbone's weights: train
    python tools/train.py configs/classification/resnet56_kd_resnet18-w16_cifar10.py
and copy its student to checkpoints/resnet18-w16_cifar10.pth.
"""
_base_ = ['gfl_mkd_r18-w64_r18-w16_bccd.py']
model = dict(
    student=dict(
        backbone=dict(
            init_cfg=dict(
                type='Pretrained',
                checkpoint='checkpoints/resnet18-w16_cifar10.pth',
                prefix='backbone.'))))
