"""Image classifiers for mmengine: models, data, metrics; without distillation."""

from .cifar_resnet import CifarResNet
from .classifier import ImageClassifier
from .datasets import TorchvisionDataset
from .metrics import ClassAccuracy
from .preprocessor import ClassifierPreprocessor
from .timm_backbone import TimmBackbone
from .torchvision_backbone import TorchvisionBackbone

__all__ = [
    'CifarResNet',
    'ClassAccuracy',
    'ClassifierPreprocessor',
    'ImageClassifier',
    'TimmBackbone',
    'TorchvisionBackbone',
    'TorchvisionDataset',
]
