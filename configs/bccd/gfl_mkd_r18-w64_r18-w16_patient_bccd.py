"""M-KD on BCCD by function matching: strong augmentation, which the teacher sees too.

Four times as long as gfl_mkd_r18-w64_r18-w16_bccd.py, since a mixed image teaches little
by itself. To train the teacher, see there.
"""
_base_ = ['gfl_mkd_r18-w64_r18-w16_bccd.py']
max_epochs = 64
train_dataloader = dict(
    batch_sampler=None,
    dataset=dict(
        _delete_=True,
        type='PatientDataset',
        size=(320, 240),
        dataset={{_base_.train_dataloader.dataset}}))
train_cfg = dict(max_epochs=max_epochs, val_interval=16)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=True, milestones=[44, 56], gamma=0.1)
]
