"""The files that a distillation ships, and the lines that load them."""

from __future__ import annotations

from pathlib import Path

from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS

from ...config_files.reading import read_config

CONFIG = 'student_config.py'
# The first of these that is there is shipped.
WEIGHTS = ('student_best.pth', 'student_last.pth')


def shipped_files(folder: Path) -> tuple[Path, Path] | None:
    """Return the plain student's config and weights; None if they are not there.

    Args:
        folder: Work dir of the training.
    """
    # Several best metrics have a file each: student_best_<metric>.pth.
    best = sorted(folder.glob('student_best*.pth'))
    found = [*best, *(folder / name for name in WEIGHTS if (folder / name).is_file())]
    config = folder / CONFIG
    return (config, found[0]) if found and config.is_file() else None


def is_detector(config: Path) -> bool:
    """Return whether a plain config is one of a detector of mmdet.

    Args:
        config: The config.
    """
    kind = read_config(str(config)).model.get('type')
    cls = kind if isinstance(kind, type) else MODELS.get(str(kind))
    return cls is not None and issubclass(cls, BaseDetector)


def loading_lines(config: Path, weights: Path, image: str = 'image.jpg') -> list[str]:
    """Return four lines of Python that load a student without mkd_det.

    Args:
        config: Its plain config.
        weights: Its weights.
        image: An image for the detector.
    """
    if is_detector(config):
        return [
            'from mmdet.apis import inference_detector, init_detector',
            f'model = init_detector({str(config)!r},',
            f"                      {str(weights)!r}, device='cpu')",
            f'result = inference_detector(model, {image!r})',
        ]
    return [
        'from mmengine import MODELS, Config',
        'from mmengine.runner import load_checkpoint',
        f'model = MODELS.build(Config.fromfile({str(config)!r}).model)',
        f"load_checkpoint(model, {str(weights)!r}, map_location='cpu', strict=True)",
    ]
