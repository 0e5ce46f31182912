"""M-KD on BCCD with half of the labels: 102 labelled images, 190 without labels.

The labelled images of the config with 20 % are among them; train the teacher as there.
"""
_base_ = ['gfl_mkd_r18-w64_r18-w16_unlabeled20_bccd.py']
labels = 102
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(indices=sorted(_base_.order[:labels]), **_base_.labelled),
            dict(
                type='ConcatDataset',
                datasets=[
                    dict(
                        images='ImageSets/Main/train.txt',
                        indices=sorted(_base_.order[labels:]),
                        **_base_.unlabelled),
                    dict(images='ImageSets/Main/val.txt', **_base_.unlabelled),
                ])
        ]))
