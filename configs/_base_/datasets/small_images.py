"""Small pictures as image folders train/<class>, val/<class>, test/<class>: 32x32.

A base of clothing.py, grocery.py and signs.py, which say where. Choose on val, report
test. `cache`: an image is read from its file once.
"""
side = 32
transforms = [dict(type='Resize', size=(side, side))]
folder = dict(type='TorchvisionDataset', name='ImageFolder', cache=True)

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        **folder,
        root='train',
        transforms=[
            *transforms,
            dict(type='RandomCrop', size=side, padding=4),
            dict(type='RandomHorizontalFlip')
        ]))
val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    persistent_workers=False,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**folder, root='val', transforms=transforms))
test_dataloader = dict(
    batch_size=500,
    num_workers=0,
    persistent_workers=False,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**folder, root='test', transforms=transforms))

val_evaluator = dict(type='ClassAccuracy', topk=(1, 5))
test_evaluator = val_evaluator
