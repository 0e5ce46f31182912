"""A student of 1x3 filters on CIFAR-10, by way of parallel assistants.

ResNet-56 with 3x3 filters teaches three ResNet-32 side by side, with 3x3 filters, with
1x3 in the last third, and with 1x3 throughout; all four teach a ResNet-20 of 1x3
filters. With two GPUs: mkd-det chain ... --devices 0 1
"""
_base_ = ['../_base_/recipes/kd_logits.py']
recipe = dict(probe_size=32)
root = dict(name='t56', cfg='mkd_det::classification/resnet56_cifar10.py')
stages = [
    dict(
        name='square32',
        cfg='mkd_det::classification/resnet32_cifar10.py',
        options={'optim_wrapper.optimizer.lr': 0.02},
        parallel='assistants'),
    dict(
        name='mixed32',
        cfg='mkd_det::classification/resnet32-mixed_cifar10.py',
        options={'optim_wrapper.optimizer.lr': 0.02},
        parallel='assistants'),
    dict(
        name='rows32',
        cfg='mkd_det::classification/resnet32-rows_cifar10.py',
        options={'optim_wrapper.optimizer.lr': 0.02},
        parallel='assistants'),
    dict(
        name='s20',
        cfg='mkd_det::classification/resnet20-rows_cifar10.py',
        options={'optim_wrapper.optimizer.lr': 0.02}),
]
