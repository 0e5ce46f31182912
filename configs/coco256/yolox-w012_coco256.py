"""The student of the YOLOX pair, alone: half the widths of YOLOX-nano, 0.24 M parameters.

Six epochs, to try things out; they teach it almost nothing.
"""
_base_ = [
    '../_base_/models/yolox_small.py', '../_base_/datasets/coco256.py',
    '../_base_/schedules/adamw_16e.py', 'mmdet::_base_/default_runtime.py'
]
train_cfg = dict(max_epochs=6, val_interval=6)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=16),
    dict(type='MultiStepLR', by_epoch=True, milestones=[4, 5], gamma=0.1)
]
randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(interval=8), checkpoint=dict(interval=1, max_keep_ckpts=1))
