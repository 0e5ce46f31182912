"""An assistant close to the teacher of the BCCD pair: GFL ResNet-18, 48 base channels."""
_base_ = ['gfl_r18-w64_bccd.py']
model = dict(
    backbone=dict(base_channels=48),
    neck=dict(in_channels=[48, 96, 192, 384], out_channels=96),
    bbox_head=dict(in_channels=96, feat_channels=96))
