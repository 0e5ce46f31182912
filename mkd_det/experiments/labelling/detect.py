"""Runs a detector on images, one after the other, and keeps what it has found."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from PIL import Image
from torch import nn
from tqdm import tqdm

from ...checkpoints.checkpoint import (
    extract_state_dict,
    load_state_dict_strict,
    read_checkpoint,
    read_class_names,
    read_meta,
)
from ...data.datasets import dataset_classes
from ...data.unlabeled import list_images
from ...errors import ConfigError, DataError, MkdError
from ...io.json_files import write_json
from ...registry import type_name
from ...training.runtime import build_model
from ...training.student_config import student_config

# Boxes with a lower score are not kept.
LEAST_SCORE = 0.02


@dataclass(frozen=True)
class Detected:
    """What was found in one image, or why it could not be read.

    Args:
        path: Path of the image.
        width: Its width, in pixels.
        height: Its height.
        boxes: x, y, width, height of each box, in pixels.
        scores: Score of each box.
        labels: Label of each box.
        error: Why the image could not be read; '' if it could.
        stamp: Size and time of change of the file then; '' if it was not there.
    """

    path: str
    width: int = 0
    height: int = 0
    boxes: tuple[tuple[float, ...], ...] = ()
    scores: tuple[float, ...] = ()
    labels: tuple[int, ...] = ()
    error: str = ''
    stamp: str = ''


def read_inputs(
    cfg: Config, images: str | Sequence[str], root: str = ''
) -> tuple[Config, list[str]]:
    """Return the plain config of a detector, and the paths of images to label.

    Args:
        cfg: Config of the detector; of a distill config, its student's is returned.
        images: See `list_images`.
        root: Where relative paths of a list begin; a folder is found without it. If
            none is given and no image is found, they begin in the folder of the list.

    Raises:
        DataError: There are no images.
    """
    cfg = student_config(cfg)
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    folder = ''
    if isinstance(images, str) and os.path.isfile(images):
        images = os.path.abspath(images)
        folder = os.path.dirname(images)
    if isinstance(images, str) and not folder:
        root = ''
    paths = [str(path) for path in list_images(images, root)]
    if folder and not root and not any(map(os.path.exists, paths)):
        paths = [str(path) for path in list_images(images, folder)]
    if not paths:
        raise DataError('there are no images to label', actual=repr(images))
    return cfg, paths


class Detector:
    """A model with its weights and its test pipeline.

    Args:
        cfg: A plain config with `test_dataloader` or `val_dataloader`.
        checkpoint: Path or address of the weights. They must fit completely.
        device: Where it runs.

    Attributes:
        classes: Names of its classes.

    Raises:
        MkdError: The config has no pipeline, or the weights do not fit.
    """

    def __init__(self, cfg: Config, checkpoint: str, device: str = 'cpu') -> None:
        content = read_checkpoint(checkpoint)
        model: Any = build_model(cfg)
        weights = extract_state_dict(content, checkpoint)
        load_state_dict_strict(model, weights, checkpoint, 'the model of the config')
        self.model: nn.Module = model.to(device).eval()
        self.classes = read_class_names(read_meta(content)) or dataset_classes(cfg)
        if not self.classes:
            raise ConfigError(
                'the names of the classes are not known',
                expected='dataset_meta in the checkpoint, or classes in the data',
                fix='metainfo=dict(classes=(...)) in the dataset of the config',
            )
        self.pipeline = Compose(test_pipeline(cfg))

    def detect(self, paths: Sequence[str]) -> list[Detected]:
        """Detect objects in some images, in one batch.

        Args:
            paths: The images.
        """
        found: dict[str, Detected] = {}
        packed = []
        for index, path in enumerate(paths):
            try:
                with Image.open(path) as image:
                    image.verify()
                sample = self.pipeline(dict(img_path=path, img_id=index))
            except Exception as error:  # of a file that is no image, it may be any
                text = error.message if isinstance(error, MkdError) else str(error)
                found[path] = Detected(path, error=f'{type(error).__name__}: {text}')
            else:
                packed.append((path, sample))
        if packed:
            batch = pseudo_collate([sample for _, sample in packed])
            with torch.no_grad():
                outputs = self.model.test_step(batch)  # type: ignore[operator]
            for (path, _), output in zip(packed, outputs, strict=True):
                found[path] = _as_detected(path, output)
        return [found[path] for path in paths]


def report_failed(failed: Mapping[str, str], images: int, listed: Path) -> None:
    """List the images that could not be read in a file; without such, remove it.

    Args:
        failed: Why images could not be read, by path.
        images: Number of all images.
        listed: The file.

    Raises:
        DataError: All images have failed.
    """
    if not failed:
        listed.unlink(missing_ok=True)
        return
    write_json(listed, failed)
    if len(failed) == images:
        path, reason = next(iter(failed.items()))
        raise DataError(
            f'none of {images} images could be read; {listed} says why',
            expected='images that the test pipeline of the config can load',
            actual=f'{path}: {reason}',
            fix='the same command with images that can be opened; or a config whose'
            ' test pipeline can load them; or --root, where paths in a list begin',
        )


def _as_detected(path: str, output: Any) -> Detected:
    known = output.pred_instances.cpu()
    known = known[known.scores >= LEAST_SCORE]
    height, width = output.ori_shape[:2]
    corners = known.bboxes.reshape(-1, 4)
    limits = torch.tensor([width, height, width, height])
    corners = torch.minimum(corners.clamp(min=0), limits)
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    return Detected(
        path,
        int(width),
        int(height),
        tuple(tuple(round(v, 2) for v in box) for box in boxes.tolist()),
        tuple(round(v, 5) for v in known.scores.tolist()),
        tuple(known.labels.tolist()),
    )


def test_pipeline(cfg: Config) -> list[Mapping[str, Any]]:
    """Return the test pipeline of a config, without annotations.

    Args:
        cfg: A plain config.

    Raises:
        ConfigError: It has none.
    """
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    dataset = loader.get('dataset') if isinstance(loader, Mapping) else None
    while isinstance(dataset, Mapping) and isinstance(dataset.get('dataset'), Mapping):
        dataset = dataset['dataset']
    if not isinstance(dataset, Mapping) or not dataset.get('pipeline'):
        raise ConfigError(
            'the config has no test pipeline',
            expected='test_dataloader=dict(dataset=dict(pipeline=[...]))',
        )
    return [
        step
        for step in dataset['pipeline']
        if type_name(step.get('type')) != 'LoadAnnotations'
    ]


def detect_all(
    detector: Detector, paths: Sequence[str], kept: Path, batch_size: int, title: str
) -> Iterator[Detected]:
    """Yield what is found in images; what was found before is read from a file.

    Images that failed before, or have changed since, are detected again.

    Args:
        detector: The detector.
        paths: The images.
        kept: File that keeps what was found, a line for each image. An interrupted
            run continues with it.
        batch_size: Images in a batch.
        title: Title of the progress bar.
    """
    known = read_finished(kept)
    missing = [path for path in paths if path not in known]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.open('a', encoding='utf-8') as file:
        done = len(paths) - len(missing)
        bar = tqdm(total=len(paths), initial=done, desc=title, disable=None)
        with bar:
            for start in range(0, len(missing), batch_size):
                some = missing[start : start + batch_size]
                stamps = [_stamp(path) for path in some]
                for one, stamp in zip(detector.detect(some), stamps, strict=True):
                    one = replace(one, stamp=stamp)
                    known[one.path] = one
                    file.write(json.dumps(asdict(one)) + '\n')
                    bar.update()
                file.flush()
    yield from (known[path] for path in paths)


def read_finished(kept: Path) -> dict[str, Detected]:
    """Return by path what need not be detected again: it was read, and is unchanged.

    Args:
        kept: File with a line for each image; of two lines of an image, the later
            counts. There may be none.
    """
    known = {one.path: one for one in read_detected(kept)}
    return {
        path: one
        for path, one in known.items()
        if not one.error and one.stamp == _stamp(path)
    }


def _stamp(path: str) -> str:
    """Return what changes when a file is written; '' if there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return ''
    return f'{found.st_size} {found.st_mtime_ns}'


def read_detected(kept: Path) -> Iterable[Detected]:
    """Yield what was found before; a last line that was cut is removed.

    Args:
        kept: File with a line for each image. There may be none.
    """
    if not kept.is_file():
        return
    complete = kept.read_bytes().rpartition(b'\n')[0]
    for line in complete.decode('utf-8').splitlines():
        entry = json.loads(line)
        entry['boxes'] = tuple(map(tuple, entry['boxes']))
        for key in ('scores', 'labels'):
            entry[key] = tuple(entry[key])
        yield Detected(**entry)
    with kept.open('r+b') as file:
        file.truncate(len(complete) + 1 if complete else 0)
