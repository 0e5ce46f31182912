"""Draws the detections of several models side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.structures import InstanceData
from PIL import Image, ImageDraw, ImageFont

from ..class_maps.class_map import ClassMap
from ..class_maps.samples import shared_samples
from ..taps import frozen_state

# Images that are drawn, unless another number is asked for.
IMAGES = 4
# Detections with a lower score are not drawn.
MIN_SCORE = 0.3
# Longer side of a drawn image in pixels.
SIDE = 320
# Colours of the classes' boxes: dark enough for white letters.
CLASS_COLOURS = (
    '#5a5a5a', '#c81e28', '#1e6eb4', '#1e8228', '#be5a00',
    '#8c3caa', '#82503c', '#be328c', '#6e6e00', '#00828c',
)  # fmt: skip
# Height of the titles above the columns, and the gap between images, in pixels.
_HEAD, _GAP = 44, 8

Draw = Callable[[np.ndarray, InstanceData], np.ndarray]


@dataclass(frozen=True)
class DetectedImage:
    """An image with the objects that were found in it.

    Args:
        image: RGB (H, W, 3), uint8.
        columns: Objects by title of the column: `bboxes` (N, 4) in pixels of the
            image, `labels` (N,) and `scores` (N,); ground truth has scores of 1.
    """

    image: np.ndarray
    columns: Mapping[str, InstanceData]


def draw_detections(
    images: Sequence[DetectedImage], classes: Sequence[str], path: Path
) -> None:
    """Draw a row for each image, and a column for each model.

    Args:
        images: The images, with equal columns.
        classes: Names of the classes.
        path: The PNG file.
    """
    draw = _make_draw(classes)
    rows = [
        [draw(one.image, _seen(found)) for found in one.columns.values()]
        for one in images
    ]
    _image_grid(rows, list(images[0].columns)).save(path)


def draw_models(
    models: Mapping[str, Any],
    dataset: Any,
    path: Path,
    class_maps: Mapping[str, ClassMap | None] | None = None,
    count: int = IMAGES,
) -> bool:
    """Draw ground truth and what models find in some images of a dataset.

    Args:
        models: Detectors by the title of their column. They end on the CPU.
        dataset: Validation data.
        path: The PNG file.
        class_maps: Class maps of models of other classes, by title. Of these models,
            objects of the classes of the data are drawn.
        count: Number of images, of those with objects.

    Returns:
        Whether something was drawn: the data has boxes.
    """
    indices = images_with_boxes(dataset, count)
    if not indices:
        return False
    images = [_read_image(dataset, index) for index in indices]
    columns = [{'ground truth': _annotated(dataset, index)} for index in indices]
    for title, model in models.items():
        model.to(get_device())
        classes = (class_maps or {}).get(title)
        with frozen_state(model):
            for index, column in zip(indices, columns, strict=True):
                (sample,) = model.val_step(pseudo_collate([dataset[index]]))
                sample = sample.cpu()
                column[title] = _own_labels(sample, classes).pred_instances
        model.cpu()
    drawn = [DetectedImage(image, c) for image, c in zip(images, columns, strict=True)]
    draw_detections(drawn, dataset.metainfo['classes'], path)
    return True


def _own_labels(sample: Any, classes: ClassMap | None) -> Any:
    """Return a sample with predictions in the labels of the data."""
    if classes is None:
        return sample
    (shared,) = shared_samples([sample], classes)
    numbers = torch.tensor(classes.shared)
    shared.pred_instances.labels = numbers[shared.pred_instances.labels.cpu()]
    return shared


def images_with_boxes(dataset: Any, count: int) -> list[int]:
    """Return indices of images with objects, evenly spaced; none for other data.

    Args:
        dataset: The validation set.
        count: Number of images.
    """
    if not hasattr(dataset, 'get_data_info') or 'classes' not in dataset.metainfo:
        return []
    found = [index for index in range(len(dataset)) if _boxes(dataset, index)]
    count = min(count, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def _boxes(dataset: Any, index: int) -> list[Mapping[str, Any]]:
    """Return the annotated objects of an image, but for those that are ignored."""
    instances = dataset.get_data_info(index).get('instances') or []
    return [one for one in instances if 'bbox' in one and not one.get('ignore_flag')]


def _annotated(dataset: Any, index: int) -> Any:
    boxes = _boxes(dataset, index)
    labels = [one['bbox_label'] for one in boxes]
    return ground_truth([one['bbox'] for one in boxes], labels)


def _read_image(dataset: Any, index: int) -> np.ndarray:
    path = dataset.get_data_info(index)['img_path']
    return mmcv.imread(path, channel_order='rgb')


def draw_columns(
    rows: Sequence[Sequence[DetectedImage]],
    titles: Sequence[str],
    path: Path,
    classes: Sequence[str],
) -> None:
    """Draw a grid of images, each with its own boxes.

    Args:
        rows: Images by row and column, equal columns; each with one entry in `columns`.
        titles: Titles of the columns.
        path: The PNG file.
        classes: Names of the classes.
    """
    draw = _make_draw(classes)
    drawn = [
        [draw(one.image, _seen(*one.columns.values())) for one in row] for row in rows
    ]
    _image_grid(drawn, titles).save(path)


def ground_truth(
    boxes: Sequence[Sequence[float]], labels: Sequence[int]
) -> InstanceData:
    """Return annotated objects, with a score of 1.

    Args:
        boxes: Corners (x1, y1, x2, y2).
        labels: Their classes.
    """
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels).long(),
        scores=torch.ones(len(boxes)),
    )


def _seen(found: InstanceData) -> InstanceData:
    return found[found.scores >= MIN_SCORE]


def _make_draw(classes: Sequence[str]) -> Draw:
    """Return a function that draws boxes on a resized image.

    It uses mmdet's visualizer, but not its `add_datasample`, whose letters are too
    small for pictures of this size.
    """
    from mmdet.visualization import DetLocalVisualizer

    visualizer = DetLocalVisualizer(name='detections')

    def draw(image: np.ndarray, instances: InstanceData) -> np.ndarray:
        scale = SIDE / max(image.shape[:2])
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        visualizer.set_image(np.asarray(resized))
        boxes = instances.bboxes.cpu() * scale
        for box, label, score in zip(
            boxes, instances.labels.tolist(), instances.scores.tolist(), strict=True
        ):
            colour = CLASS_COLOURS[label % len(CLASS_COLOURS)]
            visualizer.draw_bboxes(box, edge_colors=colour, line_widths=2, alpha=1)
            visualizer.draw_texts(
                classes[label] + (f' {score:.2f}' if score < 1 else ''),
                torch.stack([box[0], (box[1] - 2).clamp(min=17)]),
                font_sizes=12,
                colors='white',
                vertical_alignments='bottom',
                bboxes={'facecolor': colour, 'pad': 1, 'edgecolor': 'none'},
            )
        return visualizer.get_image()

    return draw


def _image_grid(
    rows: Sequence[Sequence[np.ndarray]], columns: Sequence[str]
) -> Image.Image:
    """Return images in a grid, with a title above each column."""
    width = max(row[0].shape[1] for row in rows)
    heights = [row[0].shape[0] for row in rows]
    size = (
        len(columns) * (width + _GAP) + _GAP,
        _HEAD + sum(heights) + len(rows) * _GAP,
    )
    grid = Image.new('RGB', size, 'white')
    pen = ImageDraw.Draw(grid)
    for i, title in enumerate(columns):
        centre = _GAP + i * (width + _GAP) + width // 2
        font = _fitting_font(title, width)
        pen.text((centre, _HEAD // 2), title, fill='black', font=font, anchor='mm')
    top = _HEAD
    for row, height in zip(rows, heights, strict=True):
        for i, image in enumerate(row):
            grid.paste(Image.fromarray(image), (_GAP + i * (width + _GAP), top))
        top += height + _GAP
    return grid


def _fitting_font(title: str, width: int) -> Any:
    """Return a font in which a title is no wider than a column."""
    size = 24.0
    font = ImageFont.load_default(size=size)
    wide = font.getlength(title)
    return font if wide <= width else ImageFont.load_default(size=size * width / wide)
