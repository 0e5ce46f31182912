"""CIFAR-10: 60 000 images of 32x32, ten classes, as files.

Image folders train/<class>/*.png and test/<class>/*.png (or JPEG) at
`data/cifar10`, or set CIFAR10_ROOT. To have torchvision download its own files
instead, see cifar100.py. For a part of the images:
    train_dataloader.dataset.num_images=10000
"""
dataset_type = 'TorchvisionDataset'
data_root = '{{$CIFAR10_ROOT:data/cifar10}}'
classes = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog',
           'horse', 'ship', 'truck')

# `cache`: an image is read from its file once. Of no use with worker processes,
# which forget it after each epoch; and these images need none.
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        name='ImageFolder',
        root=data_root + '/train',
        classes=classes,
        num_images=None,
        cache=True,
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
        name='ImageFolder',
        root=data_root + '/test',
        classes=classes,
        cache=True))
test_dataloader = val_dataloader

val_evaluator = dict(type='ClassAccuracy', topk=(1, 5))
test_evaluator = val_evaluator
