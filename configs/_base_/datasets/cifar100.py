"""CIFAR-100: 60 000 images of 32x32, a hundred classes.

torchvision downloads it (169 MB, https://www.cs.toronto.edu/~kriz/cifar.html) to
`data/cifar100`, or to CIFAR100_ROOT.
"""
dataset_type = 'TorchvisionDataset'
data_root = '{{$CIFAR100_ROOT:data/cifar100}}'

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        name='CIFAR100',
        root=data_root,
        train=True,
        download=True,
        num_images=None,
        transforms=[
            dict(type='RandomCrop', size=32, padding=4),
            dict(type='RandomHorizontalFlip')
        ]))
val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    persistent_workers=False,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        name='CIFAR100',
        root=data_root,
        train=False,
        download=True))
test_dataloader = val_dataloader

val_evaluator = dict(type='ClassAccuracy', topk=(1, 5))
test_evaluator = val_evaluator
