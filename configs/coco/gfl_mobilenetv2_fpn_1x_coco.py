"""The student alone: GFL on a MobileNetV2."""

_base_ = ['mmdet::gfl/gfl_r50_fpn_1x_coco.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(1, 2, 4, 6),
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://mmdet/mobilenet_v2')),
    neck=dict(in_channels=[24, 32, 96, 320]))
# mmdet's MobileNetV2 has a last convolution that no FPN reads.
find_unused_parameters = True
# A few boxes of COCO have no height; mmdet leaves them out.
train_dataloader = dict(dataset=dict(filter_cfg=dict(bbox_min_size=1)))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
