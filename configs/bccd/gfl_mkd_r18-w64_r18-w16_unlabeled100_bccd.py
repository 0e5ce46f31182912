"""M-KD on BCCD with all labels, and the 87 images of the val split without labels.

A step sees 8 images with labels and 4 without; the number of steps is that of the
config with 20 % of the labels. To train the teacher, see
gfl_mkd_r18-w64_r18-w16_bccd.py.
"""
_base_ = ['gfl_mkd_r18-w64_r18-w16_unlabeled20_bccd.py']
labels = 205
train_dataloader = dict(
    batch_size=12,
    sampler=dict(batch_size=12, source_ratio=[2, 1]),
    dataset=dict(
        datasets=[
            _base_.labelled,
            dict(images='ImageSets/Main/val.txt', **_base_.unlabelled)
        ]))
