"""DIST on ImageNet: ResNet-34 teaches ResNet-18, the paper's pair. Not trained by us.

The teacher has torchvision's weights, which are downloaded:
    https://download.pytorch.org/models/resnet34-b627a593.pth
"""
_base_ = ['resnet34_kd_resnet18_imagenet.py']
model = dict(
    terms=dict(
        _delete_=True,
        loss_dist=dict(
            type='DIST',
            student='logits',
            teacher='t.logits',
            beta=1.0,
            gamma=1.0)))
