"""The teacher of the demo: GFL ResNet-18, 48 base channels. `make demo` trains it."""

_base_ = [
    '../_base_/models/gfl_r18_small.py',
    '../_base_/datasets/digits.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(base_channels=48),
    neck=dict(in_channels=[48, 96, 192, 384], out_channels=64),
    bbox_head=dict(num_classes=10, in_channels=64, feat_channels=64),
)

max_epochs = 16
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    # Of 1e-3, 3e-3 and 6e-3 the best for this teacher (docs/results/mkd.md).
    optimizer=dict(type='AdamW', lr=6e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(interval=10),
    # Two: mmengine removes the oldest before it writes the next.
    checkpoint=dict(interval=1, max_keep_ckpts=2),
)
