"""The two-stage student on playing cards, alone: Faster R-CNN ResNet-18, 16 base channels."""
_base_ = ['faster-rcnn_r18-w64_cards.py']
model = dict(
    backbone=dict(base_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=128)))
