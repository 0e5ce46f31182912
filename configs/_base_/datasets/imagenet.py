"""ImageNet (ILSVRC 2012): 1.28 million images, a thousand classes.

Not to be downloaded without a licence: https://www.image-net.org. Image folders
train/<wnid>/*.JPEG and val/<wnid>/*.JPEG at `data/imagenet`, or set IMAGENET_ROOT.
"""
dataset_type = 'TorchvisionDataset'
data_root = '{{$IMAGENET_ROOT:data/imagenet}}'

train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        name='ImageFolder',
        root=data_root + '/train',
        transforms=[
            dict(type='RandomResizedCrop', size=224),
            dict(type='RandomHorizontalFlip')
        ]))
val_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        name='ImageFolder',
        root=data_root + '/val',
        transforms=[
            dict(type='Resize', size=256),
            dict(type='CenterCrop', size=224)
        ]))
test_dataloader = val_dataloader

val_evaluator = dict(type='ClassAccuracy', topk=(1, 5))
test_evaluator = val_evaluator
