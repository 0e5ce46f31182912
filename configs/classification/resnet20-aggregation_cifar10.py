"""ResNet-20 alone, with cross entropy, balanced cross entropy and focal loss
together on the labels."""
_base_ = ['resnet20_cifar10.py']
model = dict(
    loss=dict(
        type='LossAggregation',
        losses=[
            dict(type='CE'),
            dict(type='BalancedCE', counts=[5000] * 10),
            dict(type='Focal', gamma=2.0)
        ],
        weights=[1 / 3] * 3))
