"""The ground truth of a batch, as tensors; sizes of its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn
from torchvision.ops import batched_nms

from ..errors import ConfigError, PlanError
from ..structures import GroundTruth, HeadOutput

_WITHOUT_BOXES = (
    'SoftOutputKD, DKD, DIST on logits; FeatureKD, AttentionKD, RelationKD on features'
)


def read_truth(
    kind: str, inputs: Tensor, data_samples: Sequence[Any] | None
) -> GroundTruth:
    """Read the ground truth from data samples.

    Args:
        kind: 'boxes' or 'labels', as `PairLoss.truth` says.
        inputs: Preprocessed images (N, C, H, W).
        data_samples: A data sample for each image.

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
            'a term needs boxes, and the data samples hold none',
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


def confident_boxes(
    output: HeadOutput,
    activation: str,
    score_thr: float,
    size: tuple[int, int],
    iou_threshold: float = 0.6,
) -> GroundTruth:
    """Return the boxes that a dense head predicts with confidence, as ground truth.

    Args:
        output: What the head predicts.
        activation: What its class logits are for.
        score_thr: Least score of a box.
        size: (H, W) of the images.
        iou_threshold: Boxes of one class that overlap more are one object (NMS).

    Raises:
        PlanError: The boxes of the head cannot be decoded.
    """
    if output.boxes is None:
        raise PlanError(
            'the boxes of this head cannot be decoded',
            fix='unlabeled=dict(truth=None)',
        )
    logits = output.scores.detach()
    scores = (
        logits.softmax(-1)[..., :-1] if activation == 'softmax' else (logits.sigmoid())
    )
    found = []
    for image_scores, image_boxes in zip(scores, output.boxes.detach()):
        best, labels = image_scores.max(-1)
        sure = best >= score_thr
        best, labels, boxes = best[sure], labels[sure], image_boxes[sure]
        kept = batched_nms(boxes, best, labels, iou_threshold)
        found.append((boxes[kept], labels[kept]))
    boxes_of, labels_of = zip(*found)
    return GroundTruth(boxes_of, labels_of, size)


def image_sizes(
    inputs: Tensor, data_samples: Sequence[Any] | None
) -> list[tuple[int, int]]:
    """Return (H, W) of each image, without padding where the data samples say.

    Args:
        inputs: Preprocessed images (N, C, H, W).
        data_samples: A data sample for each image.
    """
    whole = (inputs.shape[-2], inputs.shape[-1])
    if not isinstance(data_samples, (list, tuple)):  # targets of another kind
        return [whole] * len(inputs)
    return [tuple(getattr(s, 'img_shape', whole)[:2]) for s in data_samples]


def no_truth(size: tuple[int, int], like: Tensor) -> GroundTruth:
    """Return the ground truth of an image without objects, with the first label.

    Args:
        size: (H, W) of the image.
        like: A tensor of the device and type that the boxes shall have.
    """
    return GroundTruth(
        (like.new_zeros(0, 4),), (like.new_zeros((), dtype=torch.long),), size
    )


def check_truth(kind: str, student: nn.Module, where: str) -> None:
    """Raise unless the data of a student can hold what a loss needs.

    Args:
        kind: 'boxes', 'labels' or '', as `PairLoss.truth` says.
        student: The student.
        where: Name of the term, for messages.

    Raises:
        PlanError: It needs boxes of a classifier's data, or image labels of a
            detector's.
    """
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
    samples: Sequence[Any] | None, device: torch.device, where: str
) -> Tensor:
    """Return labels (N,), or probabilities (N, K) where samples hold them.

    Args:
        samples: A data sample for each image, with `gt_label` or `gt_score`.
        device: The device of the result.
        where: Name of the part that needs them, for the message.

    Raises:
        ConfigError: The samples hold neither.
    """
    for key in ('gt_score', 'gt_label'):
        if samples and all(key in sample for sample in samples):
            values = torch.stack([sample.get(key) for sample in samples]).to(device)
            return values.flatten() if key == 'gt_label' else values
    raise ConfigError(
        f'{where}: the data samples hold no label of the whole image',
        expected='gt_label or gt_score, as ImageClassifier has them',
        actual=_fields(samples),
    )


def _fields(samples: Sequence[Any] | None) -> str | None:
    return ', '.join(samples[0].keys()) if samples else None
