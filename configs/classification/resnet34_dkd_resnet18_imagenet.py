"""DKD on ImageNet: ResNet-34 teaches ResNet-18, the paper's pair. Not trained by us.

The teacher has torchvision's weights, which are downloaded:
    https://download.pytorch.org/models/resnet34-b627a593.pth
"""
_base_ = ['resnet34_kd_resnet18_imagenet.py']
model = dict(
    terms=dict(
        _delete_=True,
        loss_dkd=dict(
            type='DKD',
            student='logits',
            teacher='t.logits',
            beta=0.5,
            tau=1.0)))
