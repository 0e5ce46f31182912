"""Image classifiers for mmengine: models, data, metrics; without distillation."""

from .cifar_resnet import CifarResNet
from .cifar_vgg import CifarVGG
from .cifar_wide_resnet import CifarWideResNet
from .classifier import ImageClassifier
from .datasets import TorchvisionDataset
from .metrics import ClassAccuracy
from .preprocessor import ClassifierPreprocessor
from .timm_backbone import TimmBackbone
from .torchvision_backbone import TorchvisionBackbone

__all__ = [
    'CifarResNet',
    'CifarVGG',
    'CifarWideResNet',
    'ClassAccuracy',
    'ClassifierPreprocessor',
    'ImageClassifier',
    'TimmBackbone',
    'TorchvisionBackbone',
    'TorchvisionDataset',
]
