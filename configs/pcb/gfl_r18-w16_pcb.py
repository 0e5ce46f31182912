"""The student of the circuit-board pair, alone: GFL ResNet-18, 16 base channels."""
_base_ = ['gfl_r18-w64_pcb.py']
model = dict(
    backbone=dict(base_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1))
# As for the other two data sets (docs/results/mkd.md).
optim_wrapper = dict(optimizer=dict(lr=1e-2))
