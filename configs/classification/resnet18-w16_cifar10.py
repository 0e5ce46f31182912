"""mmdet's own ResNet-18 with 16 base channels, on CIFAR-10: the backbone of a
detector (../bccd/gfl_mkd_r18-w64_r18-w16-cifar_bccd.py) as a classifier."""
_base_ = ['resnet20_cifar10.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        base_channels=16,
        num_stages=4,
        # For images of 32x32; the weights fit any strides.
        strides=(1, 1, 2, 2),
        out_indices=(3, ),
        frozen_stages=-1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch'),
    in_channels=128)
