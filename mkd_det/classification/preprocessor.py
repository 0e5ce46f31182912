"""Data preprocessor of classifiers: normalisation and mixup."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import MODELS
from torchvision.transforms.v2 import MixUp

from ..errors import ConfigError


@MODELS.register_module()
class ClassifierPreprocessor(ImgDataPreprocessor):
    """mmengine's `ImgDataPreprocessor` with mixup in training.

    Zhang et al.: "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv
    1710.09412. Student and teachers get the same mixed images; labels become
    probabilities (`gt_score` of the samples). Neighbours in the batch are mixed, so the
    data must be shuffled.

    Args:
        mixup: Parameter alpha of the Beta distribution; 0 turns mixup off.
        num_classes: Number of classes, needed for mixup.
        **base: `mean`, `std`, `bgr_to_rgb`, ... of ImgDataPreprocessor.
    """

    def __init__(self, mixup: float = 0.0, num_classes: int = 0, **base: Any) -> None:
        super().__init__(**base)
        if not mixup >= 0 or (mixup and num_classes < 2):
            raise ConfigError(
                'ClassifierPreprocessor: mixup must be a number >= 0, with num_classes',
                actual=(mixup, num_classes),
                fix='mixup=0.2, num_classes=10',
            )
        self.mixup, self.num_classes = mixup, num_classes

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return normalised images (N, 3, H, W) and the samples."""
        data = super().forward(data, training)
        if training and self.mixup:
            self._mix(data)
        return data

    def _mix(self, data: dict) -> None:
        samples = data['data_samples']
        if any(sample.get('gt_label') is None for sample in samples):
            raise ConfigError(
                'mixup needs a label of every image, and some have none',
                actual='images without labels in the batch',
                fix='mixup=0 in the data_preprocessor',
            )
        labels = torch.stack([sample.gt_label for sample in samples]).view(-1)
        mix = MixUp(alpha=self.mixup, num_classes=self.num_classes)
        data['inputs'], scores = mix(data['inputs'], labels)
        for sample, score in zip(samples, scores, strict=True):
            sample.gt_score = score
