"""The RTMDet teacher on playing cards: half the widths of RTMDet-l, a third of its depth."""
_base_ = [
    '../_base_/models/rtmdet_small.py', '../_base_/datasets/cards.py',
    '../_base_/schedules/adamw_16e.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(bbox_head=dict(num_classes=6))
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1))
# At 1e-3 it reaches 0.184 on validation images, at 3e-3 0.279.
optim_wrapper = dict(optimizer=dict(lr=3e-3))
