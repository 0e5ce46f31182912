"""A picture of a batch: as student and teacher see it, and what they look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer
from torch import Tensor
from torch.nn import functional

from ...functional import attention_map
from ...heads.running import run_features
from ...taps import Tap, capture, frozen_state
from ..detections import DetectedImage, draw_columns
from .examination import Examination
from .finding import OK, Finding

# Images that are drawn at most.
MOST = 4


def draw_batch(path: Path) -> Any:
    """Return what draws the picture, as a check: it has a function `check`.

    Args:
        path: The PNG file.
    """

    def check(case: Examination) -> list[Finding]:
        draw(case, path)
        return [Finding('picture', OK, f'a batch is drawn in {path}')]

    return SimpleNamespace(check=check)


def draw(case: Examination, path: Path) -> None:
    """Draw a row for each image of a batch.

    The columns are the image that the student gets, with the ground truth, and its
    attention; of each teacher the image that it gets, with what it finds, and its
    attention. Images are drawn as the numbers that a model gets, red for its first
    channel: colours that differ between the models are channels in another order.

    Args:
        case: What is examined.
        path: The PNG file. Its folder is made.
    """
    model = case.model
    batch = next(case.batch_copies())
    data = model.student.data_preprocessor(batch, False)
    inputs, samples = data['inputs'], list(data.get('data_samples') or ())
    shown: list[dict[str, Any]] = [{} for _ in range(min(len(inputs), MOST))]
    truth = [_truth(samples, i) for i in range(len(shown))]
    _add(shown, 'student', model.student, inputs, samples, truth)
    for name, teacher in model.teachers.items():
        if not teacher.runs:
            continue
        images = model.renormalizers[name](inputs, samples)
        found = _detections(teacher.model, images, samples, len(shown))
        _add(shown, name, teacher.model, images, samples, found)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_columns(
        [list(row.values()) for row in shown], list(shown[0]), path, _names(case)
    )


def _add(
    shown: list[dict[str, Any]],
    owner: str,
    model: Any,
    inputs: Tensor,
    samples: Sequence[Any],
    boxes: Sequence[InstanceData],
) -> None:
    """Add the two columns of a model to all rows."""
    what = 'ground truth' if owner == 'student' else 'its boxes'
    maps = _attention(model, inputs, samples)
    for i, row in enumerate(shown):
        image = _visible(inputs[i])
        row[f'{owner} sees; {what}'] = DetectedImage(image, {'': boxes[i]})
        if maps is not None:
            overlay = Visualizer.draw_featmap(maps[i], image)
            row[f'{owner} attends'] = DetectedImage(overlay, {'': _no_boxes()})


def _visible(image: Tensor) -> np.ndarray:
    """Return normalised numbers (C, H, W) as an image (H, W, 3), each channel alike."""
    image = image.detach().float().cpu()[:3].expand(3, -1, -1)
    low, high = image.quantile(0.01), image.quantile(0.99)
    grey = ((image - low) / (high - low).clamp_min(1e-6)).clamp(0, 1) * 255
    return np.ascontiguousarray(grey.permute(1, 2, 0).numpy().astype(np.uint8))


def _attention(model: Any, inputs: Tensor, samples: Sequence[Any]) -> Tensor | None:
    """Return the attention of the finest level of the neck, or else of the backbone.

    Returns:
        Maps (N, 1, H, W) of the size of the images; None where there is none.
    """
    name = 'neck' if getattr(model, 'neck', None) is not None else 'backbone'
    if getattr(model, name, None) is None:
        return None
    taps = {'seen': Tap.parse(name)}
    with frozen_state(model), capture(model, taps) as seen:
        run_features(model, inputs, list(samples) or None)
    levels = [x for x in seen['seen'] if isinstance(x, Tensor) and x.dim() == 4]
    if not levels:
        return None
    attention = torch.nan_to_num(attention_map(levels[0].float()))
    size = (inputs.shape[-2], inputs.shape[-1])
    return functional.interpolate(attention, size, mode='bilinear')


def _detections(
    model: Any, images: Tensor, samples: Sequence[Any], count: int
) -> list[InstanceData]:
    """Return what a teacher finds, in pixels of the images."""
    if not hasattr(model, 'bbox_head') and not hasattr(model, 'roi_head'):
        return [_no_boxes()] * count
    with frozen_state(model):
        found = model.predict(images[:count], list(samples[:count]), rescale=False)
    return [_plain(sample.pred_instances) for sample in found]


def _plain(found: Any) -> InstanceData:
    boxes = getattr(found.bboxes, 'tensor', found.bboxes).detach().cpu().float()
    scores = found.scores if 'scores' in found else torch.ones(len(boxes))
    labels = found.labels.cpu().long()
    return InstanceData(bboxes=boxes, labels=labels, scores=scores.detach().cpu())


def _truth(samples: Sequence[Any], index: int) -> InstanceData:
    sample = samples[index] if index < len(samples) else None
    objects = getattr(sample, 'gt_instances', None)
    return (
        _plain(objects) if objects is not None and 'bboxes' in objects else _no_boxes()
    )


def _no_boxes() -> InstanceData:
    return InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long(), scores=torch.zeros(0)
    )


def _names(case: Examination) -> list[str]:
    """Return names for all labels that student and teachers may yield."""
    meta = getattr(case.train_loader.dataset, 'metainfo', None) or {}
    names = list(meta.get('classes') or ()) if isinstance(meta, dict) else []
    return names + [str(i) for i in range(len(names), 2000)]
