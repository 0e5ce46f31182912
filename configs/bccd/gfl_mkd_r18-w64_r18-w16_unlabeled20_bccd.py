"""M-KD on BCCD with 20 % of the labels: 41 labelled images, 251 without labels.

The rest of the training images and those of the val split have no labels; test images
are not among them. A step sees 8 images of each kind, and there are as many steps as in
16 epochs with all labels. Data and teacher as for gfl_mkd_r18-w64_r18-w16_bccd.py: train
it on the same 41 images for a teacher that knows no more labels.
"""
import random

_base_ = ['gfl_mkd_r18-w64_r18-w16_bccd.py']
# Numbers of the training images; those with labels come first.
order = list(range(205))
random.Random(0).shuffle(order)
labels = 41
max_iters = 416

labelled = _base_.train_dataloader.dataset
unlabelled = dict(
    type='UnlabeledImages',
    data_root=labelled.data_root,
    data_prefix=dict(img='JPEGImages'),
    pipeline=labelled.pipeline)
train_dataloader = dict(
    batch_size=16,
    sampler=dict(
        _delete_=True,
        type='MultiSourceSampler',
        batch_size=16,
        source_ratio=[1, 1]),
    batch_sampler=None,
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        ignore_keys=['classes', 'palette', 'cumulative_sizes'],
        datasets=[
            dict(indices=sorted(order[:labels]), **labelled),
            dict(
                type='ConcatDataset',
                datasets=[
                    dict(
                        images='ImageSets/Main/train.txt',
                        indices=sorted(order[labels:]),
                        **unlabelled),
                    dict(images='ImageSets/Main/val.txt', **unlabelled),
                ])
        ]))
train_cfg = dict(
    _delete_=True,
    type='IterBasedTrainLoop',
    max_iters=max_iters,
    val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(
        type='MultiStepLR',
        by_epoch=False,
        milestones=[286, 364],
        gamma=0.1)
]
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=max_iters))
log_processor = dict(by_epoch=False)
