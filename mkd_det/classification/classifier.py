"""An image classifier with any backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..errors import AnnotationError, ConfigError, is_integer


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Image classifier: a backbone, global average pooling, one linear layer.

    Args:
        backbone: Config of any backbone of mmdet, `CifarResNet` or
            `TorchvisionBackbone`. Its last output is used.
        num_classes: Number of classes K.
        in_channels: Channels of the backbone's last output. None: `out_channels` of the
            backbone.
        loss: Config of a loss of logits (N, K) and labels (N,) or probabilities
            (N, K), such as `LossAggregation`. None: cross entropy.
        data_preprocessor: Config of the data preprocessor. None:
            `ClassifierPreprocessor` without normalisation.
        init_cfg: As in every mmengine model.

    Raises:
        ConfigError: Backbone, loss and number of classes do not fit together.
        AnnotationError: A label is out of range.
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
        if not is_integer(num_classes) or num_classes < 2:
            raise ConfigError(
                'ImageClassifier: num_classes must be an integer >= 2',
                actual=num_classes,
            )
        self.backbone = MODELS.build(backbone)
        channels = in_channels or getattr(self.backbone, 'out_channels', None)
        if not isinstance(channels, int):
            raise ConfigError(
                f'ImageClassifier: {backbone.get("type")} has no `out_channels`',
                expected='in_channels',
                fix='in_channels=512  # the channels of its last stage',
            )
        self.head = nn.Linear(channels, num_classes)
        self.criterion = None if loss is None else MODELS.build(loss)
        self.num_classes = num_classes
        mixed = getattr(self.data_preprocessor, 'num_classes', 0)
        if mixed and mixed != num_classes:
            raise ConfigError(
                'ImageClassifier: its data preprocessor has another num_classes',
                expected=f'data_preprocessor=dict(num_classes={num_classes})',
                actual=mixed,
            )
        # Fail now, not in the first step.
        with torch.no_grad():
            self._loss(torch.zeros(2, num_classes), torch.zeros(2, dtype=torch.long))

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return all outputs of the backbone."""
        return tuple(self.backbone(inputs))

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the logits (N, K) of images (N, 3, H, W)."""
        last = self.extract_feat(inputs)[-1]
        vector = last.mean((2, 3)) if last.dim() == 4 else last
        if vector.shape[1] != self.head.in_features:
            raise ConfigError(
                f'ImageClassifier: in_channels differs from the output of'
                f' {type(self.backbone).__name__}',
                expected=f'in_channels={vector.shape[1]}',
                actual=self.head.in_features,
            )
        return self.head(vector)

    def forward(
        self,
        inputs: Tensor,
        data_samples: Sequence[BaseDataElement] | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """Return logits, losses or predictions, depending on `mode`.

        Args:
            inputs: Normalised images (N, 3, H, W).
            data_samples: Samples with `gt_label`, or with `gt_score` for probabilities.
            mode: 'tensor' for logits, 'loss' for losses, 'predict' for samples with
                `pred_score` (K,) and `pred_label`.
        """
        logits = self.logits(inputs)
        if mode == 'tensor':
            return logits
        if mode == 'loss':
            targets = self._targets(data_samples or ()).to(logits.device)
            return {'loss_cls': self._loss(logits, targets)}
        samples = data_samples or [BaseDataElement() for _ in logits]
        for sample, row in zip(samples, logits, strict=True):
            sample.pred_score = row.softmax(0)
            sample.pred_label = row.argmax().view(1)
        return list(samples)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.criterion is None:
            return F.cross_entropy(logits.float(), targets)
        loss = self.criterion(logits, targets)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise ConfigError(
                f'ImageClassifier: {type(self.criterion).__name__} must return'
                ' one number for logits and labels',
                actual=type(loss).__name__,
                fix="loss=dict(type='LossAggregation', losses=[dict(type='CE')])",
            )
        return loss

    def _check_scores(self, scores: Tensor) -> None:
        sums = scores.sum(-1)
        if scores.shape[1:] != (self.num_classes,) or not sums.allclose(
            torch.ones_like(sums), atol=1e-3
        ):
            raise AnnotationError(
                'ImageClassifier: gt_score must be the probabilities of all classes',
                expected=f'{self.num_classes} numbers that sum to 1',
                actual=f'{tuple(scores.shape[1:])}, sums from {sums.min():.3f} to'
                f' {sums.max():.3f}',
            )

    def _targets(self, samples: Sequence[Any]) -> Tensor:
        """Return probabilities (N, K) if all samples have them, else labels (N,)."""
        if all('gt_score' in sample for sample in samples):
            scores = torch.stack([sample.gt_score for sample in samples])
            self._check_scores(scores)
            return scores
        labels = torch.stack([sample.gt_label for sample in samples]).view(-1)
        low, high = labels.aminmax()
        if low < 0 or high >= self.num_classes:
            raise AnnotationError(
                'ImageClassifier: a label is out of range',
                expected=f'0 to {self.num_classes - 1}',
                actual=f'{int(low)} to {int(high)} in this batch',
                fix=f'num_classes={int(high) + 1}, or correct the labels',
            )
        return labels
