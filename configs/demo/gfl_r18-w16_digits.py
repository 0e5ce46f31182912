"""The student of the demo, alone: GFL ResNet-18, 16 base channels."""

_base_ = ['gfl_r18-w48_digits.py']
model = dict(
    backbone=dict(base_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1),
)
# Of 1e-3, 3e-3 and 1e-2 the best, alone and taught (docs/results/mkd.md).
optim_wrapper = dict(optimizer=dict(lr=1e-2))
