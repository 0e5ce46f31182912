"""Looks at the data that a config names, before any training.

A box without width, a misspelt class or a broken image otherwise shows up
hours later, or never: mmdet drops what it cannot use and goes on.
"""

from __future__ import annotations

import logging
import os.path as osp
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmdet.datasets import CocoDataset, XMLDataset
from mmdet.registry import DATASETS
from mmengine.logging import print_log
from mmengine.registry import init_default_scope

from ..errors import AnnotationError, nearest
from .annotations import Listing, read_coco, read_voc
from .images import check_images

IMAGES = 500


def check_data(
    cfg: Mapping[str, Any],
    splits: Sequence[str] = ('train', 'val'),
    images: int = IMAGES,
) -> list[str]:
    """Check the datasets of a config: files, boxes, class names, images.

    Takes a second or two for some thousand images. A COCO json is read whole,
    which for the 448 MB of COCO's train2017 takes about as long as mmdet
    itself needs for it. Of long lists a sample is looked at; the line that is
    logged for each dataset says so.

    Args:
        cfg: The config, with `train_dataloader` and so on. Datasets of the
            CocoDataset and XMLDataset families are checked, also inside
            wrappers; others are skipped with a log line.
        splits: Which `<split>_dataloader` to look at.
        images: At most so many images of each dataset are decoded.

    Returns:
        The lines that were logged, one for each dataset.

    Raises:
        AnnotationError: An annotation file is missing, empty, broken, lacks
            a class, or holds boxes without width or height.
        ImageError: An image is missing or cannot be read.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    lines = []
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for dataset in _leaves(loader.get('dataset')):
            lines.append(f'data check, {split}: {_check_dataset(dataset, images)}')
            level = logging.WARNING if 'Beware' in lines[-1] else logging.INFO
            print_log(lines[-1], logger='current', level=level)
        _check_evaluators(cfg.get(f'{split}_evaluator'))
    return lines


def classes_of(cfg: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Names of the classes of the training data; None where they are not known
    without reading it."""
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    for leaf in _leaves((cfg.get('train_dataloader') or {}).get('dataset')):
        kind = leaf['type']
        kind = kind if isinstance(kind, type) else DATASETS.get(kind)
        if _is_ours_to_judge(kind):
            dataset = DATASETS.build({**leaf, 'pipeline': [], 'lazy_init': True})
            return tuple(dataset.metainfo.get('classes') or ()) or None
    return None


def _leaves(dataset: Any) -> Iterator[Mapping]:
    """The innermost dataset configs, taken out of their wrappers."""
    if isinstance(dataset, Sequence) and not isinstance(dataset, str):
        for part in dataset:
            yield from _leaves(part)
    elif isinstance(dataset, Mapping):
        inside = dataset.get('dataset', dataset.get('datasets'))
        if inside is None:
            yield dataset
        else:
            yield from _leaves(inside)


def _check_dataset(cfg: Mapping, images: int) -> str:
    """Check one dataset; returns what was found, in one line."""
    kind = cfg['type']
    kind = kind if isinstance(kind, type) else DATASETS.get(kind)
    if not _is_ours_to_judge(kind):
        return f'{cfg["type"]} skipped (reads its files in its own way)'
    if cfg.get('backend_args'):
        return f'{cfg["type"]} skipped (not on this disk)'
    # mmdet's own rules for paths, class names and defaults; reads no file.
    dataset = DATASETS.build({**cfg, 'pipeline': [], 'lazy_init': True})
    listing = _read(dataset)
    _check_classes(dataset, listing)
    _check_boxes(dataset, listing)
    decoded = check_images(listing.images, images)
    total = len(listing.images)
    sampled = '' if listing.looked_at == total else f' in {listing.looked_at} of them'
    return (
        f'{kind.__name__} {dataset.ann_file}: {total} images, {listing.boxes} '
        f'boxes{sampled}, {"all" if decoded == total else decoded} images decoded'
        + _order_note(dataset, listing)
    )


def _is_ours_to_judge(kind: Any) -> bool:
    """Whether a class reads its files as CocoDataset or XMLDataset does."""
    return isinstance(kind, type) and any(
        issubclass(kind, family)
        and getattr(kind, 'load_data_list', None) is family.load_data_list
        for family in (CocoDataset, XMLDataset)
    )


def _read(dataset: CocoDataset | XMLDataset) -> Listing:
    classes = dataset.metainfo.get('classes') or ()
    if isinstance(dataset, CocoDataset):
        folder = dataset.data_prefix.get('img', '')
        return read_coco(dataset.ann_file, folder, classes, dataset.test_mode)
    return read_voc(
        dataset.ann_file,
        dataset.sub_data_root,
        classes,
        dataset.img_subdir,
        dataset.ann_subdir,
    )


def _check_classes(dataset: CocoDataset | XMLDataset, listing: Listing) -> None:
    classes = tuple(dataset.metainfo.get('classes') or ())
    absent = [name for name in classes if name not in listing.names]
    foreign = [name for name in listing.names if name not in classes]
    if isinstance(dataset, XMLDataset) and not foreign:
        # No list of categories there: a rare class may just not occur. A
        # misspelt one leaves a name behind that nobody asked for.
        absent = []
    if absent:
        raise AnnotationError(
            f'{dataset.ann_file}: no category is called '
            + ', '.join(repr(name) for name in absent[:5])
            + (f' (and {len(absent) - 5} more)' if len(absent) > 5 else ''),
            expected=f'classes={_short(classes)}',
            actual=f'{len(listing.names)} categories, {len(foreign)} of no class',
            available=nearest(absent[0], foreign or listing.names, limit=20),
            hint=f'metainfo=dict(classes={_short(listing.names)}) in the dataset',
        )
    if not listing.boxes and not dataset.test_mode:
        raise AnnotationError(
            f'{dataset.ann_file} holds no box to learn from',
            expected=f'boxes of {_short(classes)}',
            available=listing.names,
        )


def _order_note(dataset: CocoDataset | XMLDataset, listing: Listing) -> str:
    classes = list(dataset.metainfo.get('classes') or ())
    in_order = [name for name in listing.names if name in classes]
    if not isinstance(dataset, CocoDataset) or in_order == classes:
        return ''
    return (
        f'. Beware: mmdet numbers the classes as this file does, {_short(in_order)}, '
        f'not as the config does, {_short(classes)}: names in results are exchanged'
    )


def _check_boxes(dataset: CocoDataset | XMLDataset, listing: Listing) -> None:
    voc = isinstance(dataset, XMLDataset)
    smallest = (dataset.filter_cfg or {}).get('bbox_min_size') or 0
    # XMLDataset takes no `bbox_min_size` in tests.
    if not listing.flat or (smallest > 0 and not (voc and dataset.test_mode)):
        return
    where = 'annotation files' if voc else 'images with the ids'
    hint = 'filter_cfg=dict(bbox_min_size=1) in the dataset'
    if voc and dataset.test_mode:
        hint = '<difficult>1</difficult> in the object: an ignored region'
    elif voc:
        hint += ': they become ignored regions'
    else:
        hint += ': mmdet then leaves them out;\nor "iscrowd": 1 in the annotation'
    raise AnnotationError(
        f'{dataset.ann_file}: boxes without width or height, in '
        f'{len(listing.flat)} {where} {_short(listing.flat)}',
        expected='width and height above 0',
        hint=hint,
    )


def _check_evaluators(evaluators: Any) -> None:
    """A metric's own annotation file must be there too."""
    for metric in evaluators if isinstance(evaluators, Sequence) else [evaluators]:
        path = metric.get('ann_file') if isinstance(metric, Mapping) else None
        if path and not metric.get('backend_args') and not osp.isfile(path):
            raise AnnotationError(
                f'there is no annotation file {path}',
                expected=f'ann_file of {metric.get("type")}',
                hint='the same file as in the dataset, with its data_root',
            )


def _short(names: Iterable[str], limit: int = 8) -> str:
    names = tuple(names)
    rest = f', ... {len(names) - limit} more' if len(names) > limit else ''
    return '(' + ', '.join(repr(name) for name in names[:limit]) + rest + ')'
