"""An image classifier over any backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..errors import ConfigError


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Backbone, mean over positions, one linear layer.

    Args:
        backbone: Config of any backbone of mmdet, `CifarResNet` or
            `TorchvisionBackbone`. Its last output is read.
        num_classes: Number of classes K.
        in_channels: Channels of that output; None where the backbone says
            so (`out_channels`).
        loss: Config of a loss of logits (N, K) and labels (N,) or probabilities
            (N, K), such as `LossAggregation`. None: cross entropy.
        data_preprocessor: Default: `ClassifierPreprocessor`, which normalises nothing.
        init_cfg: As in every mmengine model.

    Raises:
        ConfigError: The backbone does not say its channels.
    """

    def __init__(
        self,
        backbone: dict,
        num_classes: int,
        in_channels: int | None = None,
        loss: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            data_preprocessor or dict(type='ClassifierPreprocessor'), init_cfg
        )
        self.backbone = MODELS.build(backbone)
        channels = in_channels or getattr(self.backbone, 'out_channels', None)
        if not isinstance(channels, int):
            raise ConfigError(
                f'ImageClassifier: {backbone.get("type")} does not say how many channels'
                ' it yields',
                expected='in_channels',
                hint='in_channels=512, the channels of its last stage',
            )
        self.head = nn.Linear(channels, num_classes)
        self.criterion = None if loss is None else MODELS.build(loss)
        self.num_classes = num_classes

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """All that the backbone yields."""
        return tuple(self.backbone(inputs))

    def logits(self, inputs: Tensor) -> Tensor:
        """Images (N, 3, H, W) to logits (N, K)."""
        last = self.extract_feat(inputs)[-1]
        return self.head(last.mean((2, 3)) if last.dim() == 4 else last)

    def forward(
        self,
        inputs: Tensor,
        data_samples: Sequence[BaseDataElement] | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """As in every mmengine model.

        Args:
            inputs: Normalised images (N, 3, H, W).
            data_samples: With `gt_label`, or `gt_score` where probabilities are given.
            mode: 'tensor' for logits, 'loss' for losses, 'predict' for samples with
                `pred_score` (K,) and `pred_label`.
        """
        logits = self.logits(inputs)
        if mode == 'tensor':
            return logits
        if mode == 'loss':
            return {'loss_cls': self._loss(logits, _targets(data_samples or ()))}
        samples = data_samples or [BaseDataElement() for _ in logits]
        for sample, row in zip(samples, logits, strict=True):
            sample.pred_score = row.softmax(0)
            sample.pred_label = row.argmax().view(1)
        return list(samples)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        targets = targets.to(logits.device)
        if self.criterion is not None:
            return self.criterion(logits, targets)
        return F.cross_entropy(logits.float(), targets)


def _targets(samples: Sequence[Any]) -> Tensor:
    """Probabilities (N, K) where all samples have them, else labels (N,)."""
    if all('gt_score' in sample for sample in samples):
        return torch.stack([sample.gt_score for sample in samples])
    return torch.stack([sample.gt_label for sample in samples]).view(-1)
