"""DGKD on CIFAR-10 with stochastic teaching: each of the student's three teachers takes
part in an iteration with probability 0.75. What is dropped is not run."""
_base_ = ['resnet56-44-32_dgkd_resnet20_cifar10.py']
sampling = dict(keep_prob=0.75, seed=0)
