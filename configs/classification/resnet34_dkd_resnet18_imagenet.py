"""DKD on ImageNet: ResNet-34 teaches ResNet-18, the paper's pair. Not trained by us.

The teacher has torchvision's weights, which are downloaded:
    https://download.pytorch.org/models/resnet34-b627a593.pth
"""
_base_ = ['resnet18_imagenet.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(
        t=dict(
            cfg='mkd_det::classification/resnet34_imagenet.py',
            checkpoint='https://download.pytorch.org/models/'
            'resnet34-b627a593.pth',
            revise_keys=[('^fc', 'head'), ('^(?!head)', 'backbone.model.')])),
    taps=dict(logits='head'),
    terms=dict(
        loss_dkd=dict(
            type='DKD',
            student='logits',
            teacher='t.logits',
            beta=0.5,
            tau=1.0)),
    probe_size=224)
