"""M-KD on the circuit-board data with a quarter of the labels: 100 labelled images, 700
without labels.

The 700 are the rest of `train`, and all of `train_more`. A step sees 8 images of each
kind, and there are as many steps as in 16 epochs with all 400 labels. Train the teacher
with gfl_r18-w64_pcb.py, as for gfl_mkd_r18-w64_r18-w16_pcb.py.
"""
import random

_base_ = ['gfl_mkd_r18-w64_r18-w16_pcb.py']
# Numbers of the training images; those with labels come first.
order = list(range(400))
random.Random(0).shuffle(order)
labels = 100
max_iters = 800

labelled = _base_.train_dataloader.dataset
unlabelled = dict(
    type='UnlabeledImages',
    data_root=labelled.data_root,
    data_prefix=dict(img='images/'),
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
                        images='annotations/train.json',
                        indices=sorted(order[labels:]),
                        **unlabelled),
                    dict(images='annotations/train_more.json', **unlabelled),
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
        milestones=[550, 700],
        gamma=0.1)
]
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=max_iters))
log_processor = dict(by_epoch=False)
