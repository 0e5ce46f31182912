"""Pictures of a finished distillation: detections and attention maps."""

from __future__ import annotations

import re
from pathlib import Path

from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from PIL import Image

from ....hooks.attention_maps import draw_attention
from ....io import markdown
from ....io.random_state import preserved_random_state
from ...detections import MIN_SCORE, draw_models
from .finished_run import FinishedRun, Missing
from .metrics import ALONE_TITLE, STUDENT

DETECTIONS = 'detections.png'
# Images whose attention is drawn, and the height of one, in pixels.
ATTENTION_IMAGES, HEIGHT = 2, 144


def detections_part(run: FinishedRun, out: Path) -> list[str]:
    """Draw what teachers and students find, beside the ground truth.

    Args:
        run: The distillation.
        out: Folder of the page.

    Returns:
        Blocks of markdown.

    Raises:
        Missing: The validation data has no boxes.
    """
    maps = run.distiller.plan.class_maps
    titles = {name: f'teacher {name}' for name in run.teachers}
    models = {titles[name]: one.model for name, one in run.teachers.items()}
    class_maps = {titles[name]: maps.get(name) for name in titles}
    if run.alone_weights is not None:
        models[ALONE_TITLE] = run.alone
    models[STUDENT] = run.student
    if not draw_models(models, run.val_data, out / DETECTIONS, class_maps):
        raise Missing('the validation data has no images with boxes')
    caption = (
        f'Detections with a score of at least {MIN_SCORE} on validation images, evenly'
        ' spaced.'
    )
    return [markdown.picture(DETECTIONS, caption)]


def attention_part(run: FinishedRun, out: Path) -> list[str]:
    """Draw the attention maps of student and teachers, level by level.

    Args:
        run: The distillation.
        out: Folder of the page.

    Returns:
        Blocks of markdown.

    Raises:
        Missing: No tap yields feature maps.
    """
    data, distiller, student = run.val_data, run.distiller, run.student
    count = min(ATTENTION_IMAGES, len(data))
    blocks = []
    for model in (distiller, student):
        model.to(get_device())
    with preserved_random_state():
        samples = [data[i * len(data) // count] for i in range(count)]
        for tap, number, picture in draw_attention(
            distiller, samples, pseudo_collate, height=HEIGHT, student=student
        ):
            name = re.sub(r'[^\w.-]+', '_', f'attention_{tap}_{number}') + '.png'
            Image.fromarray(picture).save(out / name)
            blocks.append(markdown.picture(name, f'Attention at {tap}, a row a level.'))
    for model in (distiller, student):
        model.cpu()
    if not blocks:
        raise Missing('no tap yields feature maps in student and teacher')
    return blocks
