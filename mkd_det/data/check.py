"""Checks of the data of a config before training.

A box without width, a misspelt class or a broken image otherwise appears hours later,
or never: mmdet silently drops what it cannot use.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmdet.registry import DATASETS
from mmengine.logging import print_log
from mmengine.registry import init_default_scope

from ..errors import MkdError, as_config_error
from .checks import AnnotatedDataset, run_checks
from .checks.evaluators import check_evaluators
from .checks.overlap import check_overlap
from .datasets import (
    checks_itself,
    dataset_class,
    dataset_parts,
    has_no_labels,
    open_dataset,
    reads_standard_format,
)

MAX_IMAGES = 500


def check_data(
    cfg: Mapping[str, Any],
    splits: Sequence[str] = ('train', 'val'),
    images: int = MAX_IMAGES,
) -> list[str]:
    """Check the datasets of a config: files, boxes, class names, images.

    Takes one or two seconds for some thousand images. A COCO json is read completely;
    for the 448 MB of COCO's train2017 this takes 25 s, mostly for parsing. Long lists
    are sampled; the line that is logged for each dataset says so.

    Args:
        cfg: The config, with `train_dataloader` etc. Datasets of the CocoDataset and
            XMLDataset families are checked, also inside wrappers, and datasets with a
            method `check(images) -> str`, which raises typed errors and returns a
            summary in one line. Other datasets are skipped with a log line.
        splits: Splits to check (`<split>_dataloader`).
        images: Maximum number of images to decode per dataset.

    Returns:
        The logged lines, one per dataset.

    Raises:
        AnnotationError: An annotation file is missing, empty or invalid, lacks a
            class, or has boxes without width or height, or no boxes to train on.
        ImageError: An image is missing or cannot be decoded.
        ConfigError: A dataset cannot be built from its config.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    lines = []
    seen = _Images()
    for split in splits:
        parts: list[list[AnnotatedDataset | None]] = []
        for part in dataset_parts(cfg, split):
            parts.append([])
            for leaf in part:
                line, data = _check_dataset(leaf, images, split, seen)
                lines.append(f'data check, {split}: {line}')
                level = logging.WARNING if 'Warning:' in line else logging.INFO
                print_log(lines[-1], logger='current', level=level)
                parts[-1].append(data)
        check_evaluators(cfg.get(f'{split}_evaluator'), parts)
    if seen.unlabelled and 'test' not in splits:
        seen.measured += _test_images(cfg)
    for remark in seen.compare():
        lines.append(f'data check: Warning: {remark}')
        print_log(lines[-1], logger='current', level=logging.WARNING)
    return lines


@dataclass
class _Images:
    """Paths of the images of all datasets."""

    unlabelled: list[str] = field(default_factory=list)
    labelled: list[str] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)
    strict: bool = False

    def compare(self) -> list[str]:
        """Return what is to be said of images without labels."""
        # The test data is often the validation data.
        measured = list(dict.fromkeys(self.measured))
        sides = self.unlabelled, self.labelled, measured
        return check_overlap(*sides, self.strict) if self.unlabelled else []


def _check_dataset(
    cfg: Mapping, images: int, split: str, seen: _Images
) -> tuple[str, AnnotatedDataset | None]:
    """Check one dataset; return a summary in one line, and its annotations, if read."""
    cls = dataset_class(cfg, split)
    if checks_itself(cls):
        with as_config_error(f'{split}_dataloader: {cls.__name__}'):
            dataset = DATASETS.build(dict(cfg))
        if has_no_labels(cls) and split == 'train':
            seen.unlabelled += dataset.paths
            seen.strict = seen.strict or dataset.strict
        return f'{cls.__name__} {dataset.check(images)}', None
    if not reads_standard_format(cls):
        return f'{cfg["type"]} skipped (reads its files in its own way)', None
    if cfg.get('backend_args'):
        return f'{cfg["type"]} skipped (not on this disk)', None
    data = AnnotatedDataset(open_dataset(cfg, split), images)
    kept = seen.labelled if split == 'train' else seen.measured
    kept += _used_images(cfg, data, split)
    remarks = [*data.annotations.remarks, *run_checks(data)]
    return _summary(data, cls.__name__, remarks), data


def _test_images(cfg: Mapping[str, Any]) -> list[str]:
    """Return the paths of the test images; none of data that cannot be read.

    Test data need not be there when a training starts.
    """
    found = []
    for leaf in (leaf for part in dataset_parts(cfg, 'test') for leaf in part):
        standard = reads_standard_format(dataset_class(leaf, 'test'))
        if standard and not leaf.get('backend_args'):
            with contextlib.suppress(MkdError):
                data = AnnotatedDataset(open_dataset(leaf, 'test'), 0)
                found += _used_images(leaf, data, 'test')
    return found


def _used_images(cfg: Mapping, data: AnnotatedDataset, split: str) -> list[str]:
    """Return the paths of the images that a dataset yields: `indices` takes some."""
    if cfg.get('indices') is None:
        return list(data.annotations.images)
    with as_config_error(f'{split}_dataloader: {data.dataset.__class__.__name__}'):
        dataset = DATASETS.build({**cfg, 'pipeline': []})
        return [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]


def _summary(data: AnnotatedDataset, name: str, remarks: Sequence[str]) -> str:
    annotations, total = data.annotations, len(data.annotations.images)
    read = annotations.images_read
    sampled = '' if read == total else f' in {read} of them'
    decoded = len(data.image_sizes)
    return (
        f'{name} {data.dataset.ann_file}: {total} images, {annotations.boxes} '
        f'boxes{sampled}, {"all" if decoded == total else decoded} images decoded'
        + ('. Warning: ' + '; '.join(remarks) if remarks else '')
    )
