"""LD in the demo, as a pure-Python config: classes as types, bases as imports.

It can be mixed with other configs only through names (`cfg='mkd_det::...'`): a base of
it must not have `_base_` or placeholders. `make demo` makes the pictures and trains the
teacher.
"""

import os

from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, Resize
from mmdet.evaluation import CocoMetric
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from torch.optim import AdamW

from mkd_det import Distiller
from mkd_det.hooks import TeacherCheckHook

with read_base():
    from .._base_.models.gfl_r18_small import model as student
    from .._base_.recipes.ld_dense import recipe

# For the types that are names, as in the bases. Without any: None.
default_scope = 'mmdet'

student.update(
    backbone=dict(base_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
    bbox_head=dict(num_classes=10, in_channels=32, feat_channels=32, stacked_convs=1),
)
model = dict(
    type=Distiller,
    student=student,
    teachers=dict(
        t=dict(
            cfg='mkd_det::demo/gfl_r18-w48_digits.py',
            checkpoint='work_dirs/demo/teacher/epoch_16.pth',
        )
    ),
    **recipe,
)

data_root = os.environ.get('DIGITS_ROOT', 'work_dirs/demo/digits')
metainfo = dict(classes=('0', '1', '2', '3', '4', '5', '6', '7', '8', '9'))
pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadAnnotations, with_bbox=True),
    dict(type=Resize, scale=(160, 160), keep_ratio=True),
]
keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=CocoDataset,
        data_root=data_root,
        metainfo=metainfo,
        ann_file='train.json',
        data_prefix=dict(img='train/'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=[*pipeline, dict(type=PackDetInputs)],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CocoDataset,
        data_root=data_root,
        metainfo=metainfo,
        ann_file='val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        pipeline=[*pipeline, dict(type=PackDetInputs, meta_keys=keys)],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=CocoMetric, ann_file=data_root + '/val.json', metric='bbox')
test_evaluator = val_evaluator

train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=16, val_interval=2)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10, norm_type=2),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(
        type=CosineAnnealingLR,
        T_max=16,
        by_epoch=True,
        begin=0,
        end=16,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(
    logger=dict(type=LoggerHook, interval=10),
    checkpoint=dict(type=CheckpointHook, interval=1, max_keep_ckpts=2),
    teacher_check=dict(type=TeacherCheckHook, num_images=32),
)
randomness = dict(seed=0)
