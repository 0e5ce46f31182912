"""Pictures of the demo: learning curves, and detections side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..curves import Curve, Panel, draw_panels
from ..detections import DetectedImage, ground_truth
from ..detections import draw_detections as draw_images
from ..runs import History
from ..runs.history import BOX_MAP

# One colour for each model, told apart by colour-blind people, too.
COLOURS = {'teacher': '#555555', 'student': '#D55E00', 'mkd': '#0072B2'}
IMAGES = 4


def draw_curves(
    histories: Mapping[str, History], titles: Mapping[str, str], path: Path
) -> None:
    """Draw validation mAP and the detector's own loss over epochs.

    Args:
        histories: Histories of the trainings, by name.
        titles: Titles of the trainings, by name.
        path: The PNG file.
    """
    metrics, losses = [], []
    for name, history in histories.items():
        style = {'color': COLOURS[name], 'linewidth': 2}
        if name == 'teacher':
            style['linestyle'] = '--'
        points = {e: m.get(BOX_MAP, 0.0) for e, m in history.metrics.items()}
        dots = {**style, 'marker': 'o', 'markersize': 4}
        metrics.append(Curve(titles[name], points, dots))
        length = max(history.iters_per_epoch, 1)
        own = {step / length: loss for step, loss in history.losses.items()}
        losses.append(Curve(titles[name], own, style))
    panels = [
        Panel('box mAP on the validation images', 'epoch', metrics),
        Panel("the detector's own loss, in training", 'epoch', losses),
    ]
    draw_panels(panels, path)


def draw_detections(
    models: Mapping[str, Any], titles: Mapping[str, str], data: Path, path: Path
) -> None:
    """Draw ground truth and detections of each model on the first validation images.

    Args:
        models: Detectors of `mmdet.apis.init_detector`, by name.
        titles: Titles of the detectors, by name.
        data: Root of the digits.
        path: The PNG file.
    """
    from mmdet.apis import inference_detector

    content = json.loads((data / 'val.json').read_text())
    images = []
    for entry in content['images'][:IMAGES]:
        file = data / 'val' / entry['file_name']
        boxes = [b for b in content['annotations'] if b['image_id'] == entry['id']]
        corners = [(x, y, x + w, y + h) for x, y, w, h in (b['bbox'] for b in boxes)]
        labels = [box['category_id'] - 1 for box in boxes]
        columns = {'ground truth': ground_truth(corners, labels)}
        for name, model in models.items():
            found = inference_detector(model, str(file)).pred_instances
            columns[titles[name]] = found
        image = np.asarray(Image.open(file).convert('RGB'))
        images.append(DetectedImage(image, columns))
    classes = [entry['name'] for entry in content['categories']]
    draw_images(images, classes, path)
