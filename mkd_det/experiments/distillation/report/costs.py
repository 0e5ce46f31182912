"""What the student costs when it is used, beside its teachers; and its files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ....deploy.preprocessing import input_size, pad_divisor, padded
from ....io import markdown
from ....io.markdown import escape
from ...benchmark.inference import InferenceSettings, measure_inference
from ...benchmark.inference_report import inference_notes, inference_rows
from ..shipping import is_detector, loading_lines
from .finished_run import FinishedRun

# Enough for a ratio; mkd-det benchmark --inference measures longer.
SETTINGS = InferenceSettings(iters=8, warmup=2, batch_sizes=(1, 8))


def costs_part(run: FinishedRun, out: Path) -> list[str]:
    """Measure parameters, operations and latency, models and runtimes in turns.

    Args:
        run: The distillation.
        out: Folder of the page.

    Returns:
        Blocks of markdown.
    """
    models: dict[str, tuple[Any, Config]] = {'student': (run.student, run.plain)}
    for name, one in run.teachers.items():
        key = name if name != 'student' else 'teacher student'
        source = one.source_cfg or Config(dict(model=dict(one.config.cfg)))
        models[key] = (one.model, source)
    divisor = max(pad_divisor(model) for model, _ in models.values())
    size = padded(_image_size(run), divisor)
    found = measure_inference(models, size, SETTINGS)
    run.figures['inference'] = found
    header, *rows = inference_rows(found)
    lead = (
        f'Images of {size[0]}x{size[1]} on {found["device"]}, {SETTINGS.iters} rounds'
        ' in turns. What carries over to another machine is the ratio.'
    )
    command = f'mkd-det benchmark {run.config} --inference'
    return [
        escape(lead),
        markdown.table(map_escaped(header), map(map_escaped, rows)),
        markdown.bullet_list(map(escape, inference_notes(found))),
        'More rounds:',
        markdown.code_block([command]),
    ]


def _image_size(run: FinishedRun) -> tuple[int, int]:
    """Return (H, W) of the pipeline's images; of the first one, where it has none."""
    dataset = (run.plain.get('val_dataloader') or {}).get('dataset') or {}
    if 'pipeline' in dataset or 'dataset' in dataset or not dataset:
        return input_size(run.plain)
    height, width = run.val_data[0]['inputs'].shape[-2:]
    return int(height), int(width)


def map_escaped(cells: list[str]) -> list[str]:
    """Return the cells of a row as markdown."""
    return [escape(cell) for cell in cells]


def shipping_part(run: FinishedRun, out: Path) -> list[str]:
    """Name the two files to ship, and the lines that load them.

    Args:
        run: The distillation.
        out: Folder of the page.

    Returns:
        Blocks of markdown.
    """
    config, weights = files = [path.absolute() for path in run.files]
    folder = Path(os.path.relpath(run.run_dir, out)).as_posix()
    links = [
        f'[{escape(path.name)}]({folder}/{path.name}),'
        f' {path.stat().st_size / 1e6:.2f} MB'
        for path in files
    ]
    run.figures['files'] = [str(path) for path in files]
    others = 'stock mmdet' if is_detector(config) else 'mmengine'
    lines = loading_lines(config, weights, _an_image(run))
    return [
        markdown.bullet_list(links),
        f'They need no teacher. With {others}:',
        markdown.code_block(lines),
    ]


def _an_image(run: FinishedRun) -> str:
    """Return an image of the validation data, or else a name to replace."""
    try:
        return str(Path(run.val_data.get_data_info(0)['img_path']).absolute())
    except Exception:  # other data: the lines are right, but for the name
        return 'image.jpg'
