"""The teacher of the RetinaNet pair on BCCD: RetinaNet ResNet-18, 64 base channels."""
_base_ = [
    '../_base_/models/retinanet_r18_small.py', '../_base_/datasets/bccd.py',
    '../_base_/schedules/adamw_16e.py', 'mmdet::_base_/default_runtime.py'
]
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1))
