"""The RTMDet student on playing cards, alone: an eighth of the widths of RTMDet-l."""
_base_ = ['rtmdet-w050_cards.py']
model = dict(
    backbone=dict(deepen_factor=0.167, widen_factor=0.125),
    neck=dict(in_channels=[32, 64, 128], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1))
