"""CWD of mmseg's segmentors: PSPNet ResNet-101 teaches PSPNet ResNet-18 (74.87 mIoU alone).

    pip install 'mkd_det[openmmlab]'
Put Cityscapes (https://www.cityscapes-dataset.com) at data/cityscapes, as mmseg wants it, and into
checkpoints/ the teacher (79.76 mIoU)
https://download.openmmlab.com/mmsegmentation/v0.5/pspnet/pspnet_r101-d8_512x1024_80k_cityscapes/pspnet_r101-d8_512x1024_80k_cityscapes_20200606_112211-e1e1100f.pth
"""

_base_ = [
    'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/recipes/cwd_segmentor.py']
custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py',
        checkpoint='checkpoints/pspnet_r101-d8_512x1024_80k_cityscapes_20200606_112211-e1e1100f.pth')),
    **_base_.pop('recipe'))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
