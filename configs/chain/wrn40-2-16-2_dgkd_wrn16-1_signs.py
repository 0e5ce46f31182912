"""DGKD on hand signs: WideResNets of 40 and 16 layers, twice as wide, teach one of 16.

    mkd-det chain configs/chain/wrn40-2-16-2_dgkd_wrn16-1_signs.py
"""
_base_ = ['../_base_/recipes/kd_logits.py']
recipe = dict(probe_size=32)
root = dict(
    name='w40',
    cfg='mkd_det::classification/resnet56_signs.py',
    options={
        'model.backbone.type': 'CifarWideResNet',
        'model.backbone.depth': 40,
        'model.backbone.widen': 2,
    })
# Whoever is taught sees several losses: a lower rate than alone.
stages = [
    dict(
        name='w16x2',
        cfg='mkd_det::classification/resnet56_signs.py',
        options={
            'model.backbone.type': 'CifarWideResNet',
            'model.backbone.depth': 16,
            'model.backbone.widen': 2,
            'optim_wrapper.optimizer.lr': 0.02,
        }),
    dict(
        name='w16x1',
        cfg='mkd_det::classification/resnet56_signs.py',
        options={
            'model.backbone.type': 'CifarWideResNet',
            'model.backbone.depth': 16,
            'model.backbone.widen': 1,
            'optim_wrapper.optimizer.lr': 0.02,
        }),
]
guides = 'dense'
lam = 0.5
