"""DGKD on clothes: VGG-16 and VGG-13 teach VGG-8, of half their channels.

    mkd-det chain configs/chain/vgg16-13_dgkd_vgg8_clothing.py
"""
_base_ = ['../_base_/recipes/kd_logits.py']
recipe = dict(probe_size=32)
root = dict(
    name='v16',
    cfg='mkd_det::classification/resnet56_clothing.py',
    options={
        'model.backbone.type': 'CifarVGG',
        'model.backbone.depth': 16,
        'model.backbone.base_channels': 32,
    })
# Whoever is taught sees several losses: a lower rate than alone.
stages = [
    dict(
        name='v13',
        cfg='mkd_det::classification/resnet56_clothing.py',
        options={
            'model.backbone.type': 'CifarVGG',
            'model.backbone.depth': 13,
            'model.backbone.base_channels': 32,
            'optim_wrapper.optimizer.lr': 0.02,
        }),
    dict(
        name='v8',
        cfg='mkd_det::classification/resnet56_clothing.py',
        options={
            'model.backbone.type': 'CifarVGG',
            'model.backbone.depth': 8,
            'model.backbone.base_channels': 16,
            'optim_wrapper.optimizer.lr': 0.02,
        }),
]
guides = 'dense'
lam = 0.5
