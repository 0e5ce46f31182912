"""Pictures of the demo: learning curves, and detections side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.structures import InstanceData
from PIL import Image, ImageDraw, ImageFont

from ..runs import History
from ..runs.history import BOX_MAP

# One colour for each model, told apart by colour-blind people, too.
COLOURS = {'teacher': '#555555', 'student': '#D55E00', 'mkd': '#0072B2'}
# Colours of the classes' boxes: dark enough for white letters.
CLASS_COLOURS = (
    '#5a5a5a', '#c81e28', '#1e6eb4', '#1e8228', '#be5a00',
    '#8c3caa', '#82503c', '#be328c', '#6e6e00', '#00828c',
)  # fmt: skip
ENLARGED = 2
IMAGES = 4
MIN_SCORE = 0.3

Draw = Callable[[np.ndarray, InstanceData], np.ndarray]


def draw_curves(
    histories: Mapping[str, History], titles: Mapping[str, str], path: Path
) -> None:
    """Draw validation mAP and the detector's own loss over epochs.

    Args:
        histories: Histories of the trainings, by name.
        titles: Titles of the trainings, by name.
        path: The PNG file.
    """
    figure = Figure(figsize=(11, 4.2), dpi=130, layout='tight')
    left, right = figure.subplots(1, 2)
    for name, history in histories.items():
        style = {'color': COLOURS[name], 'label': titles[name], 'linewidth': 2}
        if name == 'teacher':
            style['linestyle'] = '--'
        epochs = sorted(history.metrics)
        values = [history.metrics[epoch].get(BOX_MAP, 0.0) for epoch in epochs]
        left.plot(epochs, values, marker='o', markersize=4, **style)
        steps = sorted(history.losses)
        right.plot(
            np.array(steps) / max(history.iters_per_epoch, 1),
            [history.losses[step] for step in steps],
            **style,
        )
    left.set(title='box mAP on the validation images', xlabel='epoch', ylim=(0, None))
    right.set(title="the detector's own loss, in training", xlabel='epoch')
    right.set(ylim=(0, None))
    for axes in (left, right):
        axes.set_xlim(0, None)
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    left.legend(frameon=False, loc='lower right')
    figure.savefig(path)


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
    classes = tuple(entry['name'] for entry in content['categories'])
    draw = _make_draw(classes)
    rows = []
    for entry in content['images'][:IMAGES]:
        file = data / 'val' / entry['file_name']
        image = np.asarray(Image.open(file).convert('RGB'))
        boxes = [b for b in content['annotations'] if b['image_id'] == entry['id']]
        row = [draw(image, _ground_truth(boxes))]
        for model in models.values():
            found = inference_detector(model, str(file)).pred_instances
            row.append(draw(image, found[found.scores >= MIN_SCORE]))
        rows.append(row)
    columns = ['ground truth', *(titles[name] for name in models)]
    _image_grid(rows, columns).save(path)


def _make_draw(classes: Sequence[str]) -> Draw:
    """Return a function that draws boxes on an enlarged image.

    It uses mmdet's visualizer, but not its `add_datasample`, whose letters are too
    small for pictures of this size.
    """
    from mmdet.visualization import DetLocalVisualizer

    visualizer = DetLocalVisualizer(name='demo')

    def draw(image: np.ndarray, instances: InstanceData) -> np.ndarray:
        size = (image.shape[1] * ENLARGED, image.shape[0] * ENLARGED)
        large = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        visualizer.set_image(np.asarray(large))
        boxes = instances.bboxes.cpu() * ENLARGED
        for box, label, score in zip(
            boxes, instances.labels.tolist(), instances.scores.tolist(), strict=True
        ):
            colour = CLASS_COLOURS[label]
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


def _ground_truth(boxes: Sequence[dict]) -> InstanceData:
    """Return COCO annotations of an image as instances with a score of 1."""
    corners = [
        (x, y, x + width, y + height)
        for x, y, width, height in (box['bbox'] for box in boxes)
    ]
    return InstanceData(
        bboxes=torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([box['category_id'] - 1 for box in boxes]).long(),
        scores=torch.ones(len(boxes)),
    )


def _image_grid(
    rows: Sequence[Sequence[np.ndarray]], columns: Sequence[str], gap: int = 8
) -> Image.Image:
    """Return images in a grid, with a title above each column."""
    height, width = rows[0][0].shape[:2]
    head = 44
    size = (
        len(columns) * (width + gap) + gap,
        head + len(rows) * (height + gap),
    )
    grid = Image.new('RGB', size, 'white')
    pen = ImageDraw.Draw(grid)
    font = ImageFont.load_default(size=24)
    for i, title in enumerate(columns):
        centre = gap + i * (width + gap) + width // 2
        pen.text((centre, head // 2), title, fill='black', font=font, anchor='mm')
    for j, row in enumerate(rows):
        for i, image in enumerate(row):
            corner = (gap + i * (width + gap), head + j * (height + gap))
            grid.paste(Image.fromarray(image), corner)
    return grid
