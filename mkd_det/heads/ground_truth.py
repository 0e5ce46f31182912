"""What is known to be right about a batch, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from ..errors import ConfigError, PlanError
from ..structures import GroundTruth

_WITHOUT_BOXES = (
    'SoftOutputKD, DKD, DIST on logits; FeatureKD, AttentionKD, RelationKD on features'
)


def read_truth(
    kind: str, inputs: Tensor, data_samples: Sequence[Any] | None
) -> GroundTruth:
    """What a loss of this kind of truth gets.

    Args:
        kind: 'boxes' or 'labels', as `PairLoss.truth` says.
        inputs: Preprocessed images (N, 3, H, W).
        data_samples: A data sample per image.

    Raises:
        ConfigError: The data samples do not hold it.
    """
    size = (inputs.shape[-2], inputs.shape[-1])
    if kind == 'labels':
        target = image_labels(data_samples, inputs.device, 'the ground truth')
        of_images = target.argmax(-1) if target.dim() == 2 else target
        return GroundTruth((), tuple(of_images), size)
    known: list[Any] = [
        getattr(sample, 'gt_instances', None) for sample in data_samples or ()
    ]
    if not known or any(k is None or 'bboxes' not in k for k in known):
        raise ConfigError(
            'the data samples hold no boxes, which a term asks for',
            expected='gt_instances with bboxes and labels',
            actual=_fields(data_samples),
            fix=_WITHOUT_BOXES,
        )
    boxes = tuple(get_box_tensor(k.bboxes).to(inputs.device) for k in known)
    labels = tuple(
        torch.as_tensor(k.get('labels', torch.zeros(len(k)))).to(inputs.device)
        for k in known
    )
    return GroundTruth(boxes, labels, size)


def no_truth(size: tuple[int, int], like: Tensor) -> GroundTruth:
    """Of an image on which nothing is; its label, where it has one, is the first."""
    return GroundTruth(
        (like.new_zeros(0, 4),), (like.new_zeros((), dtype=torch.long),), size
    )


def check_truth(kind: str, student: nn.Module, where: str) -> None:
    """Raise PlanError where a student's data cannot hold what a loss asks for."""
    detects = isinstance(student, BaseDetector)
    if kind == 'boxes' and not detects:
        raise PlanError(
            f'{where} needs boxes of the ground truth',
            expected='a detector',
            actual=f'{type(student).__name__}: its data has labels only',
            fix=_WITHOUT_BOXES,
        )
    if kind == 'labels' and detects:
        raise PlanError(
            f'{where} needs one label for each image',
            expected='an image classifier',
            actual=f'{type(student).__name__}: its data has boxes',
            fix='SoftOutputKD, LD, CrossHead on heads, ProposalDKD on proposals; FGD,'
            ' FeatureKD on features',
        )


def image_labels(
    samples: Sequence[Any] | None, device: torch.device, who: str
) -> Tensor:
    """Labels (N,), or probabilities (N, K) where samples hold such.

    Args:
        samples: A data sample per image, with `gt_label` or `gt_score`.
        device: Where to.
        who: Who asks, for the message.
    """
    for key in ('gt_score', 'gt_label'):
        if samples and all(key in sample for sample in samples):
            values = torch.stack([sample.get(key) for sample in samples]).to(device)
            return values.flatten() if key == 'gt_label' else values
    raise ConfigError(
        f'{who}: the data samples hold no label of the whole image',
        expected='gt_label or gt_score, as ImageClassifier has them',
        actual=_fields(samples),
    )


def _fields(samples: Sequence[Any] | None) -> str | None:
    return ', '.join(samples[0].keys()) if samples else None
