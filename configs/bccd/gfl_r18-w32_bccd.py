"""An assistant between the two of the BCCD pair: GFL ResNet-18, 32 base channels."""
_base_ = ['gfl_r18-w64_bccd.py']
model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=1))
