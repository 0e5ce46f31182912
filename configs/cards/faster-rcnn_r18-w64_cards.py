"""The two-stage teacher on playing cards: Faster R-CNN ResNet-18, 64 base channels."""
_base_ = [
    '../_base_/models/faster-rcnn_r18_small.py', '../_base_/datasets/cards.py',
    '../_base_/schedules/adamw_16e.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(roi_head=dict(bbox_head=dict(num_classes=6)))
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1))
