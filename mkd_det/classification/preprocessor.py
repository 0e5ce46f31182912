"""Normalises images; mixes them in pairs if asked to."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import MODELS

from ..errors import ConfigError


@MODELS.register_module()
class ClassifierPreprocessor(ImgDataPreprocessor):
    """mmengine's, with mixup in training.

    Zhang et al.: "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv
    1710.09412. The mixed images are what student and teachers see alike; labels become
    probabilities (`gt_score` of the samples).

    Args:
        mixup: Parameter alpha of the Beta distribution; 0 for no mixing.
        num_classes: Needed for mixing.
        **base: `mean`, `std`, `bgr_to_rgb`, ... of ImgDataPreprocessor.
    """

    def __init__(self, mixup: float = 0.0, num_classes: int = 0, **base: Any) -> None:
        super().__init__(**base)
        if not mixup >= 0 or (mixup and num_classes < 2):
            raise ConfigError(
                'ClassifierPreprocessor: mixup must be a number >= 0, with num_classes',
                actual=(mixup, num_classes),
            )
        self.mixup, self.num_classes = mixup, num_classes

    def forward(self, data: dict, training: bool = False) -> dict:
        """Images (N, 3, H, W), normalised, and the samples."""
        data = super().forward(data, training)
        if training and self.mixup:
            self._mix(data)
        return data

    def _mix(self, data: dict) -> None:
        images, samples = data['inputs'], data['data_samples']
        share = float(torch.distributions.Beta(self.mixup, self.mixup).sample())
        order = torch.randperm(len(images))
        labels = torch.stack([sample.gt_label for sample in samples]).view(-1)
        soft = F.one_hot(labels, self.num_classes).to(images.dtype)
        other = order.to(images.device)
        data['inputs'] = share * images + (1 - share) * images[other]
        mixed = share * soft + (1 - share) * soft[order.to(soft.device)]
        for sample, score in zip(samples, mixed, strict=True):
            sample.gt_score = score
