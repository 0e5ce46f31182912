"""30 epochs of SGD, for image data of 1,000 to 4,000 images: sgd_15e_cifar.py, longer."""
_base_ = 'sgd_15e_cifar.py'
train_cfg = dict(max_epochs=30, val_interval=10)
_base_.param_scheduler[1].end = 30
