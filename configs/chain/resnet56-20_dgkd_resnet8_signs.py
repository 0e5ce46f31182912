"""DGKD over a large gap, on hand signs: ResNet-56 and ResNet-20 teach ResNet-8.

    mkd-det chain configs/chain/resnet56-20_dgkd_resnet8_signs.py
"""
_base_ = ['../_base_/recipes/kd_logits.py']
recipe = dict(probe_size=32)
root = dict(
    name='t56',
    cfg='mkd_det::classification/resnet56_signs.py',
    options={
        'model.backbone.depth': 56,
    })
# Whoever is taught sees several losses: a lower rate than alone.
stages = [
    dict(
        name='a20',
        cfg='mkd_det::classification/resnet56_signs.py',
        options={
            'model.backbone.depth': 20,
            'optim_wrapper.optimizer.lr': 0.02,
        }),
    dict(
        name='s8',
        cfg='mkd_det::classification/resnet56_signs.py',
        options={
            'model.backbone.depth': 8,
            'optim_wrapper.optimizer.lr': 0.02,
        }),
]
guides = 'dense'
lam = 0.5
