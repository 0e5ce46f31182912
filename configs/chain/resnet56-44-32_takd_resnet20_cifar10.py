"""TAKD on CIFAR-10: each is taught by the one before it alone."""
_base_ = ['resnet56-44-32_dgkd_resnet20_cifar10.py']
guides = 'previous'
