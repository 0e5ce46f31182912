"""torchvision's MobileNetV3-Small on CIFAR-10."""
_base_ = ['resnet20_cifar10.py']
model = dict(
    backbone=dict(
        _delete_=True, type='TorchvisionBackbone', name='mobilenet_v3_small'))
