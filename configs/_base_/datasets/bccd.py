"""BCCD: 364 photographs of blood smears, three kinds of cell.

Data: https://github.com/Shenggan/BCCD_Dataset (MIT). Put its `BCCD` folder
(Annotations, ImageSets, JPEGImages) at `data/bccd`, or set BCCD_ROOT.
"""
dataset_type = 'XMLDataset'
data_root = '{{$BCCD_ROOT:data/bccd}}'
metainfo = dict(
    classes=('RBC', 'WBC', 'Platelets'),
    palette=[(220, 20, 60), (119, 11, 32), (0, 0, 142)])
image_size = (320, 240)

common = dict(
    type=dataset_type,
    data_root=data_root,
    metainfo=metainfo,
    data_prefix=dict(sub_data_root=''),
    backend_args=None)

train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
# `instances` lets CocoMetric take its ground truth from the samples, so the
# Pascal VOC files need no conversion.
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor', 'instances'))
]

# Two boxes of BCCD have no width or height. `bbox_min_size` turns them into
# ignored regions; without it the data check stops with an error.
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        **common,
        ann_file='ImageSets/Main/train.txt',
        filter_cfg=dict(
            filter_empty_gt=True, min_size=32, bbox_min_size=1),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=False,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **common,
        ann_file='ImageSets/Main/test.txt',
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = [
    dict(type='CocoMetric', metric='bbox', format_only=False),
    dict(type='VOCMetric', metric='mAP', eval_mode='area')
]
test_evaluator = val_evaluator
