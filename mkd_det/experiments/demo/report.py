"""What the demo ends with: curves, detections side by side, and a page."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.structures import InstanceData
from PIL import Image, ImageDraw, ImageFont

from ...io.html import figure, table
from ...io.html import write_page as write_html
from ..runs import History, Result
from ..runs.history import MAP

# One colour for each model, everywhere; told apart without colour vision, too.
COLOURS = {'teacher': '#555555', 'student': '#D55E00', 'mkd': '#0072B2'}
# Of the digits' boxes: dark enough for white letters.
PALETTE = (
    '#5a5a5a', '#c81e28', '#1e6eb4', '#1e8228', '#be5a00',
    '#8c3caa', '#82503c', '#be328c', '#6e6e00', '#00828c',
)  # fmt: skip
SCALE = 2
SHOWN = 4
SCORE = 0.3


@dataclass(frozen=True)
class Row:
    """One model in the table.

    Args:
        title: What people read.
        params: Number of parameters of the model that is shipped.
        result: Of its training.
    """

    title: str
    params: int
    result: Result

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of `HEADER`."""
        return (
            self.title,
            f'{self.params / 1e6:.2f} M',
            f'{self.result.figures["box_map"]:.3f}',
            f'{self.result.figures["box_map_50"]:.3f}',
            f'{self.result.seconds:.0f}',
        )


HEADER = ('model', 'parameters', 'box mAP', 'mAP50', 'seconds')


def draw_curves(
    histories: Mapping[str, History], titles: Mapping[str, str], path: Path
) -> None:
    """Validation mAP and the detector's own loss over epochs, to a PNG.

    Args:
        histories: By stage.
        titles: By stage.
        path: Of the PNG.
    """
    canvas = Figure(figsize=(11, 4.2), dpi=130, layout='tight')
    left, right = canvas.subplots(1, 2)
    for name, history in histories.items():
        style = {'color': COLOURS[name], 'label': titles[name], 'linewidth': 2}
        if name == 'teacher':
            style['linestyle'] = '--'
        epochs = sorted(history.metrics)
        values = [history.metrics[epoch].get(MAP, 0.0) for epoch in epochs]
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
    canvas.savefig(path)


def draw_detections(
    models: Mapping[str, Any], titles: Mapping[str, str], data: Path, path: Path
) -> None:
    """The truth and what each model finds, on the first validation images.

    Args:
        models: Detectors, as `mmdet.apis.init_detector` gives them.
        titles: By the same names.
        data: Root of the digits.
        path: Of the PNG.
    """
    from mmdet.apis import inference_detector

    content = json.loads((data / 'val.json').read_text())
    classes = tuple(entry['name'] for entry in content['categories'])
    draw = _drawer(classes)
    rows = []
    for entry in content['images'][:SHOWN]:
        file = data / 'val' / entry['file_name']
        image = np.asarray(Image.open(file).convert('RGB'))
        boxes = [b for b in content['annotations'] if b['image_id'] == entry['id']]
        row = [draw(image, _truth(boxes))]
        for model in models.values():
            found = inference_detector(model, str(file)).pred_instances
            row.append(draw(image, found[found.scores >= SCORE]))
        rows.append(row)
    columns = ['what is there', *(titles[name] for name in models)]
    _contact_sheet(rows, columns).save(path)


def _drawer(
    classes: Sequence[str],
) -> Callable[[np.ndarray, InstanceData], np.ndarray]:
    """A function that draws boxes on an enlarged image.

    With mmdet's visualizer; not with its `add_datasample`, which chooses letters
    that are too small for pictures of this size.
    """
    from mmdet.visualization import DetLocalVisualizer

    visualizer = DetLocalVisualizer(name='demo')

    def draw(image: np.ndarray, instances: InstanceData) -> np.ndarray:
        size = (image.shape[1] * SCALE, image.shape[0] * SCALE)
        large = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        visualizer.set_image(np.asarray(large))
        boxes = instances.bboxes.cpu() * SCALE
        for box, label, score in zip(
            boxes, instances.labels.tolist(), instances.scores.tolist(), strict=True
        ):
            visualizer.draw_bboxes(
                box, edge_colors=PALETTE[label], line_widths=2, alpha=1
            )
            visualizer.draw_texts(
                classes[label] + (f' {score:.2f}' if score < 1 else ''),
                torch.stack([box[0], (box[1] - 2).clamp(min=17)]),
                font_sizes=12,
                colors='white',
                vertical_alignments='bottom',
                bboxes={'facecolor': PALETTE[label], 'pad': 1, 'edgecolor': 'none'},
            )
        return visualizer.get_image()

    return draw


def _truth(boxes: Sequence[dict]) -> InstanceData:
    """COCO annotations of an image, each with a score of 1."""
    corners = [
        (x, y, x + width, y + height)
        for x, y, width, height in (box['bbox'] for box in boxes)
    ]
    return InstanceData(
        bboxes=torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([box['category_id'] - 1 for box in boxes]).long(),
        scores=torch.ones(len(boxes)),
    )


def _contact_sheet(
    rows: Sequence[Sequence[np.ndarray]], columns: Sequence[str], gap: int = 8
) -> Image.Image:
    """Images in a grid, with a title above each column."""
    height, width = rows[0][0].shape[:2]
    head = 44
    size = (
        len(columns) * (width + gap) + gap,
        head + len(rows) * (height + gap),
    )
    sheet = Image.new('RGB', size, 'white')
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=24)
    for i, title in enumerate(columns):
        centre = gap + i * (width + gap) + width // 2
        pen.text((centre, head // 2), title, fill='black', font=font, anchor='mm')
    for j, row in enumerate(rows):
        for i, image in enumerate(row):
            spot = (gap + i * (width + gap), head + j * (height + gap))
            sheet.paste(Image.fromarray(image), spot)
    return sheet


def write_page(
    path: Path,
    rows: Sequence[Row],
    summary: str,
    images: Mapping[str, str],
    notes: Sequence[str],
) -> None:
    """A page with the table and the pictures beside it.

    Args:
        path: Of the html file.
        rows: Of the table.
        summary: One sentence above it.
        images: File names beside `path`, with a caption each.
        notes: Lines below, such as the commands.
    """
    parts = [
        '<h1>A small detector learns from a big one</h1>\n',
        f'<p>{html.escape(summary)}</p>\n',
        table(HEADER, [row.cells() for row in rows]),
        *(figure(name, caption) for name, caption in images.items()),
        _HOW.format(notes='\n'.join(html.escape(note) for note in notes)),
    ]
    # The student that was taught is what it is about.
    bold = 'tr:last-child td { font-weight: bold; }\n'
    write_html(path, 'mkd_det: the demo', ''.join(parts), bold)


_HOW = """<h2>How it was made</h2>
<p>Real handwritten digits on photographs, made on the spot, and three ordinary
training runs, each of which this does again:</p>
<pre>{notes}</pre>
<p>All numbers: <a href="results.json">results.json</a>.</p>
"""
