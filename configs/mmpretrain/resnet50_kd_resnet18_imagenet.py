"""Soft outputs and features of mmpretrain's classifiers: ResNet-50 teaches ResNet-18 (69.90 alone).

    pip install 'mkd_det[openmmlab]'
Put ImageNet (https://image-net.org) at data/imagenet, as mmpretrain wants it, and into checkpoints/
the teacher (77.97 % top 1)
https://download.openmmlab.com/mmclassification/v0/resnet/resnet50_8xb32_in1k_20210831-ea4938fc.pth
"""

_base_ = ['mmpretrain::resnet/resnet18_8xb32_in1k.py', '../_base_/recipes/kd_logits.py']
custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)
_base_.recipe.taps.deep = 'backbone.layer4'
_base_.recipe.terms.loss_attention = dict(type='AttentionKD', student='deep', teacher='t.deep')
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mmpretrain::resnet/resnet50_8xb32_in1k.py',
        checkpoint='checkpoints/resnet50_8xb32_in1k_20210831-ea4938fc.pth')),
    **_base_.pop('recipe'))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
