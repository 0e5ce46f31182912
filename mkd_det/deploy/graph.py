"""A model from preprocessed images to the raw outputs of its head."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.detectors import BaseDetector
from mmdet.models.detectors.single_stage_instance_seg import (
    SingleStageInstanceSegmentor,
)
from torch import Tensor, nn

from ..errors import ExportError
from ..heads.running import image_samples

INPUT = 'images'
# What to write where the heads of a student cannot be exported, or nothing of it.
FEATURES_ONLY = 'add --features: backbone and neck as ONNX; the heads stay in torch'
TORCH_ONLY = 'without --onnx: the student as a checkpoint for torch'


@dataclass(frozen=True)
class Output:
    """One output of a graph.

    Args:
        name: Its name in the ONNX file.
        shape: Its shape for the images that it was found with.
        stride: Input pixels per cell, for maps (N, C, H, W).
        activated: Whether the graph ends in a sigmoid or a softmax here.
    """

    name: str
    shape: tuple[int, ...]
    stride: int | None
    activated: bool = False


class InferenceGraph(nn.Module):
    """A model without pre- and post-processing: images in, a flat tuple of tensors out.

    The outputs are those of the head in eval mode, in the order in which
    `head.predict_by_feat` takes them. Of the decoder layers of a DETR, the last one is
    kept, as its own prediction does.

    Args:
        model: A detector or classifier. It is set to eval mode.
        features: Whether to yield the maps of backbone and neck instead of the outputs
            of the head.

    Shape:
        - images: (N, 3, H, W), normalised, without padding.

    Raises:
        ExportError: The model cannot be run without its post-processing.
    """

    def __init__(self, model: Any, features: bool = False) -> None:
        super().__init__()
        if not features:
            check_one_pass(model)
        self.model = model
        self.features = features
        self.eval()  # as a whole: the exporter restores the mode of the whole

    @property
    def fix(self) -> str:
        """What to do where the graph cannot be exported."""
        return TORCH_ONLY if self.features else FEATURES_ONLY

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return all outputs."""
        return tuple(tensor for _, tensor in self._named(images))

    @torch.no_grad()
    def outputs(self, images: Tensor) -> list[Output]:
        """Run the model, and return what its outputs are.

        Args:
            images: Images of the size that the graph is made for.

        Raises:
            ExportError: The model yields something other than tensors.
        """
        found = []
        for name, tensor in self._named(images):
            is_map = tensor.dim() == 4 and tensor.shape[-1] > 1 < tensor.shape[-2]
            stride = round(images.shape[-1] / tensor.shape[-1]) if is_map else None
            found.append(Output(name, tuple(tensor.shape), stride))
        return found

    def _named(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        if self.features:
            maps = self.model.extract_feat(images)
            yield from _flat('features', maps)
            return
        detector = isinstance(self.model, BaseDetector)
        samples = image_samples(images) if detector else None
        result = self.model(images, samples, mode='tensor')
        head = head_of(self.model)
        if isinstance(result, Tensor):
            yield ('logits' if head is None else output_names(head, 1)[0]), result
            return
        if isinstance(self.model, SingleStageInstanceSegmentor):
            # What each head yields; those with a box head have failed before.
            (result,) = result
        parts = list(result)
        names = output_names(head, len(parts))
        for name, part in zip(names, parts, strict=True):
            if isinstance(head, DETRHead) and isinstance(part, Tensor):
                part = part[-1]  # of the layers of the decoder
            yield from _flat(name, part)


def check_one_pass(model: Any) -> None:
    """Raise ExportError for a model whose heads need post-processing of each other.

    Args:
        model: A detector or classifier.
    """
    kind = type(model).__name__
    needed = ''
    if hasattr(model, 'roi_head'):
        needed = 'NMS between its two stages'
    elif hasattr(model, 'language_model'):
        needed = 'text beside images'
    elif hasattr(model, 'panoptic_head') or hasattr(model, 'panoptic_fusion_head'):
        needed = 'post-processing that fuses its heads'
    if needed:
        raise ExportError(
            f'{kind} is no single pass from images to the outputs of a head: it needs'
            f' {needed}',
            expected='a one-stage detector, a DETR or a classifier',
            actual=kind,
            fix=FEATURES_ONLY,
        )


def head_of(model: Any) -> Any:
    """Return the head whose outputs a model yields; None if it has none.

    Args:
        model: A detector or classifier.
    """
    if not isinstance(model, BaseDetector):
        return None
    names = ('bbox_head', 'mask_head', 'rpn_head')
    heads = (getattr(model, name, None) for name in names)
    return next((head for head in heads if isinstance(head, nn.Module)), None)


def output_names(head: Any, count: int) -> list[str]:
    """Return the names of what a head yields, as its `predict_by_feat` calls it.

    Args:
        head: The head, or None.
        count: Number of parts of its output.
    """
    predict = _arguments(head, 'predict_by_feat')
    loss = _arguments(head, 'loss_by_feat')
    names = []
    for index in range(count):
        name = predict[index] if index < len(predict) else ''
        if name in ('', 'score_factors') and index < len(loss):
            name = loss[index]  # says which factor: centernesses, iou_preds
        names.append(name or f'output{index}')
    return names if len(set(names)) == count else [f'output{i}' for i in range(count)]


def _arguments(head: Any, method: str) -> list[str]:
    """Return the names of what a method takes from the head's forward."""
    if not hasattr(head, method):
        return []
    found = []
    for name in inspect.signature(getattr(head, method)).parameters:
        if name.startswith(('batch_', 'img_', 'cfg', 'rescale', 'with_', 'enc_')):
            break
        found.append(re.sub(r'^(all_layers_|layer_|mlvl_)', '', name))
    return found


def _flat(name: str, part: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(part, Tensor):
        yield name, part
    elif isinstance(part, (list, tuple)):
        for index, inner in enumerate(part):
            yield from _flat(f'{name}_{index}', inner)
    elif part is not None:
        raise ExportError(
            f'{name}: the model yields something other than tensors',
            actual=type(part).__name__,
            fix=FEATURES_ONLY,
        )
