"""Labels images with a detector, and writes COCO annotations with scores."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp
from mmengine.config import Config

from ...data.datasets import leaf_datasets, open_dataset
from ...errors import ConfigError
from ...io.json_files import write_json
from .classes import ChosenClasses, choose_classes
from .detect import (
    Detected,
    Detector,
    detect_all,
    read_finished,
    read_inputs,
    report_failed,
    test_pipeline,
)
from .thresholds import thresholds_at


@dataclass(frozen=True)
class LabelSettings:
    """How to label.

    Args:
        score_thr: Least score of a box.
        precision: Take the least score of each class at which so many of its boxes on
            the validation data are right; None for `score_thr`.
        classes: Names of the classes to keep, matched by name; all if empty.
        class_map: What the detector calls a class to keep, where it has another name
            for it, or several.
        batch_size: Images in a batch.
        devices: A process for each: 'cpu', 'cuda:0'.

    Raises:
        ConfigError: A value is not possible.
    """

    score_thr: float = 0.3
    precision: float | None = None
    classes: tuple[str, ...] = ()
    class_map: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 8
    devices: tuple[str, ...] = ('cpu',)

    def __post_init__(self) -> None:
        for name in ('score_thr', 'precision'):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f'{name} must be from 0 to 1', actual=value)
        if self.batch_size < 1:
            raise ConfigError('batch_size must be at least 1', actual=self.batch_size)


@dataclass(frozen=True)
class Labelled:
    """What was labelled.

    Args:
        images: Number of images.
        boxes: Number of boxes by class.
        thresholds: Least score of each class; None where no score is precise enough,
            so that the class has no boxes.
        unknown: Classes that the detector does not know.
        failed: Why images could not be read, by path.
    """

    images: int
    boxes: dict[str, int]
    thresholds: dict[str, float | None]
    unknown: tuple[str, ...]
    failed: dict[str, str]


def label(
    cfg: Config,
    checkpoint: str,
    images: str | Sequence[str],
    out: Path,
    settings: LabelSettings | None = None,
    root: str = '',
) -> Labelled:
    """Label images with a detector.

    Writes `out`, a COCO json whose annotations have a `score`, and beside it
    `<out>.parts`, with which an interrupted run continues. Images that cannot be read
    are in `<out>.failed.json`.

    Args:
        cfg: Config of the detector; of a distill config, its student's.
        checkpoint: Its weights.
        images: What to label, see `list_images`.
        out: The json to write.
        settings: How to label.
        root: Where relative paths of a list begin, see `read_inputs`.

    Raises:
        MkdError: The weights do not fit, or there are no images that can be read.
    """
    settings = settings or LabelSettings()
    cfg, paths = read_inputs(cfg, images, root)
    detector = Detector(cfg, checkpoint, settings.devices[0])
    chosen = choose_classes(
        detector.classes or (), settings.classes, settings.class_map
    )
    parts = Path(f'{out}.parts') / _fingerprint(cfg, checkpoint)
    found = _detect_in_processes(cfg, checkpoint, detector, paths, parts, settings)
    failed = {one.path: one.error for one in found if one.error}
    report_failed(failed, len(paths), Path(f'{out}.failed.json'))
    thresholds: dict[str, float | None]
    thresholds = dict.fromkeys(chosen.names, settings.score_thr)
    if settings.precision is not None:
        thresholds = _calibrate(cfg, detector, parts, settings, chosen)
    content, counts = _as_coco(found, images, chosen, thresholds)
    content['info'] = dict(
        description='pseudo-labels',
        checkpoint=os.path.basename(checkpoint),
        thresholds=thresholds,
        precision=settings.precision,
    )
    write_json(out, content)
    return Labelled(len(content['images']), counts, thresholds, chosen.unknown, failed)


def _fingerprint(cfg: Config, checkpoint: str) -> str:
    """Return a name for what was found by this model with these weights."""
    parts = cfg.model.to_dict(), test_pipeline(cfg)
    digest = hashlib.sha256(repr(parts).encode())
    if os.path.isfile(checkpoint):
        with open(checkpoint, 'rb') as file:
            for block in iter(lambda: file.read(2**20), b''):
                digest.update(block)
    else:  # an address
        digest.update(checkpoint.encode())
    return digest.hexdigest()[:12]


def _detect_in_processes(
    cfg: Config,
    checkpoint: str,
    detector: Detector,
    paths: Sequence[str],
    parts: Path,
    settings: LabelSettings,
) -> list[Detected]:
    """Return what is found in all images; each device takes a part of them."""
    count, kept = len(settings.devices), parts / 'images.jsonl'
    known = read_finished(kept)
    missing = [path for path in paths if path not in known]
    if count > 1 and missing:
        shares = [missing[rank::count] for rank in range(count)]
        arguments = (cfg.to_dict(), checkpoint, shares, parts, settings)
        mp.spawn(_detect_share, arguments, nprocs=count)
    for share in sorted(parts.glob('images.*.jsonl')):
        with kept.open('a', encoding='utf-8') as file:
            text = share.read_text(encoding='utf-8')
            file.write(text[: text.rfind('\n') + 1])  # a kill may cut a line
        share.unlink()
    return list(detect_all(detector, paths, kept, settings.batch_size, 'label'))


def _detect_share(
    rank: int,
    cfg: Mapping[str, Any],
    checkpoint: str,
    shares: Sequence[Sequence[str]],
    parts: Path,
    settings: LabelSettings,
) -> None:
    """Detect in a part of the images, in a process of its own."""
    from mmdet.utils import register_all_modules

    register_all_modules()
    detector = Detector(Config(dict(cfg)), checkpoint, settings.devices[rank])
    kept = parts / f'images.{rank}.jsonl'
    for _ in detect_all(
        detector, shares[rank], kept, settings.batch_size, f'label {rank}'
    ):
        pass


def _calibrate(
    cfg: Config,
    detector: Detector,
    parts: Path,
    settings: LabelSettings,
    chosen: ChosenClasses,
) -> dict[str, float | None]:
    """Return the least score of each class, from the validation data."""
    leaves = leaf_datasets(cfg, 'val')
    dataset: Any = open_dataset(leaves[0], 'val') if len(leaves) == 1 else None
    ann_file = getattr(dataset, 'ann_file', '')
    if not str(ann_file).endswith('.json'):
        raise ConfigError(
            '--precision needs labelled validation data of one COCO json',
            actual=str(ann_file) or f'{len(leaves)} datasets',
            fix='--score-thr 0.3',
        )
    truth = json.loads(Path(ann_file).read_text(encoding='utf-8'))
    folder = Path(dataset.data_prefix.get('img', ''))
    files = {str(folder / one['file_name']): one['id'] for one in truth['images']}
    ids = chosen.categories({c['name']: c['id'] for c in truth['categories']})
    lines = detect_all(
        detector,
        list(files),
        parts / 'val.jsonl',
        settings.batch_size,
        'validation',
    )
    results = [
        dict(
            image_id=files[one.path],
            category_id=ids[label],
            bbox=list(box),
            score=score,
        )
        for one in lines
        for box, score, label in zip(one.boxes, one.scores, one.labels)
        if label in ids
    ]
    assert settings.precision is not None
    names = {number: chosen.name_of(label) for label, number in ids.items()}
    found = thresholds_at(Path(ann_file), results, names, settings.precision)
    return {name: found.get(name) for name in chosen.names}


def _as_coco(
    found: Sequence[Detected],
    images: str | Sequence[str],
    chosen: ChosenClasses,
    thresholds: Mapping[str, float | None],
) -> tuple[dict[str, Any], dict[str, int]]:
    """Return annotations in COCO's format, and the number of boxes by class."""
    root = images if isinstance(images, str) and os.path.isdir(images) else ''
    entries: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []
    counts = dict.fromkeys(chosen.names, 0)
    for one in (one for one in found if not one.error):
        name = os.path.relpath(one.path, root) if root else one.path
        pictures.append(
            dict(
                id=len(pictures) + 1, file_name=name, width=one.width, height=one.height
            )
        )
        for box, score, label_ in zip(one.boxes, one.scores, one.labels):
            name = chosen.name_of(label_)
            least = thresholds.get(name)
            if least is None or score < least or min(box[2:]) <= 0:
                continue
            counts[name] += 1
            entries.append(
                dict(
                    id=len(entries) + 1,
                    image_id=len(pictures),
                    category_id=chosen.kept[label_] + 1,
                    bbox=list(box),
                    area=box[2] * box[3],
                    iscrowd=0,
                    score=score,
                )
            )
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(chosen.names)]
    content: dict[str, Any] = dict(
        images=pictures, annotations=entries, categories=categories
    )
    return content, counts
