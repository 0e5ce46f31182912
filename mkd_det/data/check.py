"""Looks at the data that a config names, before any training.

A box without width, a misspelt class or a broken image otherwise shows up
hours later, or never: mmdet drops what it cannot use and goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmdet.datasets import CocoDataset, XMLDataset
from mmdet.registry import DATASETS
from mmengine.logging import print_log
from mmengine.registry import init_default_scope

from ..errors import (
    AnnotationError,
    ConfigError,
    as_config_error,
    is_number,
    nearest_names,
)
from .annotations import AnnotationSummary, read_coco, read_voc
from .evaluators import check_evaluators
from .images import check_images

IMAGES = 500


def check_data(
    cfg: Mapping[str, Any],
    splits: Sequence[str] = ('train', 'val'),
    images: int = IMAGES,
) -> list[str]:
    """Check the datasets of a config: files, boxes, class names, images.

    Takes a second or two for some thousand images. A COCO json is read whole,
    which for the 448 MB of COCO's train2017 takes 25 s, nearly all of them to
    parse it. Of long lists a sample is looked at; the line that is
    logged for each dataset says so.

    Args:
        cfg: The config, with `train_dataloader` and so on. Datasets of the
            CocoDataset and XMLDataset families are checked, also inside
            wrappers, and those that check themselves: with a method
            `check(images) -> str`, which raises typed errors and returns what it
            found in one line. Others are skipped with a log line.
        splits: Which `<split>_dataloader` to look at.
        images: At most so many images of each dataset are decoded.

    Returns:
        The lines that were logged, one for each dataset.

    Raises:
        AnnotationError: An annotation file is missing, empty, broken, lacks
            a class, holds boxes without width or height, or none to learn.
        ImageError: An image is missing or cannot be read.
        ConfigError: A dataset cannot be built from its config.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    lines = []
    for split in splits:
        listings: dict[str, AnnotationSummary] | None = {}
        names: tuple[str, ...] = ()
        for leaf in leaf_datasets(cfg, split):
            line, dataset, listing = _check_dataset(leaf, images, split)
            lines.append(f'data check, {split}: {line}')
            level = logging.WARNING if 'Beware' in line else logging.INFO
            print_log(lines[-1], logger='current', level=level)
            if listing is None or not isinstance(dataset, CocoDataset):
                listings = None  # some images are not known
            elif listings is not None:
                listings[dataset.ann_file] = listing
                names = _classes(dataset)
        check_evaluators(cfg.get(f'{split}_evaluator'), listings or {}, names)
    return lines


def dataset_classes(
    cfg: Mapping[str, Any], split: str = 'train'
) -> tuple[str, ...] | None:
    """Names of the classes of the data; None where they are not known without reading
    it, or are not the same in all its parts."""
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    found = set()
    for leaf in leaf_datasets(cfg, split):
        kind = dataset_class(leaf, split)
        if _checks_itself(kind):
            dataset = DATASETS.build(dict(leaf))
        elif reads_standard_format(kind):
            dataset = _opened(leaf, split)
        else:
            continue
        found.add(tuple(dataset.metainfo.get('classes') or ()))
    return (found.pop() or None) if len(found) == 1 else None


def leaf_datasets(cfg: Mapping[str, Any], split: str) -> list[Mapping]:
    """The configs of the datasets of a split, taken out of their wrappers.

    Raises:
        ConfigError: They, or what loads them, are no configs.
    """
    loader = cfg.get(f'{split}_dataloader')
    if loader is None:
        return []
    if not isinstance(loader, Mapping) or not isinstance(
        loader.get('dataset'), Mapping
    ):
        raise ConfigError(
            f'{split}_dataloader and its dataset must be dicts',
            actual=repr(loader),
            fix=f"{split}_dataloader=dict(dataset=dict(type='CocoDataset', ...))",
        )
    return list(_leaves(loader['dataset']))


def _leaves(dataset: Any) -> Iterator[Mapping]:
    """The innermost dataset configs."""
    if isinstance(dataset, Sequence) and not isinstance(dataset, str):
        for part in dataset:
            yield from _leaves(part)
    elif isinstance(dataset, Mapping):
        inside = dataset.get('dataset', dataset.get('datasets'))
        if inside is None:
            yield dataset
        else:
            yield from _leaves(inside)


def _check_dataset(
    cfg: Mapping, images: int, split: str
) -> tuple[str, Any, AnnotationSummary | None]:
    """Check one dataset: what was found, in one line; the dataset, not yet read, and
    its listing, if there is one."""
    kind = dataset_class(cfg, split)
    if _checks_itself(kind):
        with as_config_error(f'{split}_dataloader: {kind.__name__}'):
            dataset = DATASETS.build(dict(cfg))
        return f'{kind.__name__} {dataset.check(images)}', dataset, None
    if not reads_standard_format(kind):
        return f'{cfg["type"]} skipped (reads its files in its own way)', None, None
    if cfg.get('backend_args'):
        return f'{cfg["type"]} skipped (not on this disk)', None, None
    dataset = _opened(cfg, split)
    listing = _read(dataset)
    _check_classes(dataset, listing)
    _check_boxes(dataset, listing)
    decoded = check_images(listing.images, images)
    total = len(listing.images)
    sampled = '' if listing.looked_at == total else f' in {listing.looked_at} of them'
    remarks = [
        *listing.remarks,
        _order_note(dataset, listing),
        _size_note(dataset, listing, decoded),
        '' if listing.boxes else 'no box to measure anything by',
        'CocoDataset leaves out boxes under 1 pixel, whatever bbox_min_size says'
        if isinstance(dataset, CocoDataset) and _smallest(dataset) > 1
        else '',
    ]
    remarks = [remark for remark in remarks if remark]
    count = 'all' if len(decoded) == total else len(decoded)
    line = (
        f'{kind.__name__} {dataset.ann_file}: {total} images, {listing.boxes} '
        f'boxes{sampled}, {count} images decoded'
        + ('. Beware: ' + '; '.join(remarks) if remarks else '')
    )
    return line, dataset, listing


def _opened(cfg: Mapping, split: str) -> CocoDataset | XMLDataset:
    """A dataset with mmdet's own rules for paths, class names and defaults, which has
    read no file.

    Raises:
        ConfigError: Its config is not valid.
    """
    with as_config_error(f'{split}_dataloader: {dataset_class(cfg, split).__name__}'):
        dataset = DATASETS.build({**cfg, 'pipeline': [], 'lazy_init': True})
    where = f'{split}_dataloader.dataset'
    for name in ('ann_file', *(['data_root'] if cfg.get('data_root') else [])):
        if not isinstance(getattr(dataset, name), str):
            raise ConfigError(
                f'{where}: {name} must be a path', actual=repr(cfg.get(name))
            )
    names = dataset.metainfo.get('classes')
    listed = isinstance(names, (list, tuple)) and len(set(map(str, names)))
    if not listed or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f'{where}: classes must be a list of names',
            actual=repr(names),
            fix="metainfo=dict(classes=('red', 'green'))",
        )
    if listed != len(names):
        raise ConfigError(f'{where}: a class is named twice', actual=repr(names))
    return dataset


def dataset_class(cfg: Mapping, split: str) -> Any:
    """Class of a dataset config."""
    kind = known = cfg.get('type')
    if kind is not None and not isinstance(kind, type):
        # As `DATASETS.build` looks it up.
        with DATASETS.switch_scope_and_registry(cfg.get('_scope_')) as registry:
            known = registry.get(str(kind))
    if known is None:
        raise ConfigError(
            f'{split}_dataloader: there is no dataset of type {kind!r}',
            actual=f'dict({", ".join(map(str, cfg))})' if kind is None else None,
            available=nearest_names(str(kind), DATASETS.module_dict),
            fix="custom_imports=dict(imports=['your.module']) if it is your own",
        )
    return known


def _checks_itself(kind: Any) -> bool:
    return callable(getattr(kind, 'check', None))


def reads_standard_format(kind: Any) -> bool:
    """Whether a class reads its files as CocoDataset or XMLDataset does."""
    return isinstance(kind, type) and any(
        issubclass(kind, family)
        and getattr(kind, 'load_data_list', None) is family.load_data_list
        for family in (CocoDataset, XMLDataset)
    )


def _read(dataset: CocoDataset | XMLDataset) -> AnnotationSummary:
    classes = _classes(dataset)
    if isinstance(dataset, CocoDataset):
        folder = dataset.data_prefix.get('img', '')
        return read_coco(dataset.ann_file, folder, classes, dataset.test_mode)
    return read_voc(
        dataset.ann_file,
        dataset.sub_data_root,
        classes,
        dataset.img_subdir,
        dataset.ann_subdir,
        _smallest(dataset),
    )


def _classes(dataset: CocoDataset | XMLDataset) -> tuple[str, ...]:
    return tuple(dataset.metainfo['classes'])


def _smallest(dataset: CocoDataset | XMLDataset) -> float:
    """`bbox_min_size`, which XMLDataset takes in training only."""
    filters = dataset.filter_cfg
    value = filters.get('bbox_min_size') if isinstance(filters, Mapping) else 0
    in_test = isinstance(dataset, XMLDataset) and dataset.test_mode
    return float(value or 0) if is_number(value) and not in_test else 0.0


def _check_classes(
    dataset: CocoDataset | XMLDataset, listing: AnnotationSummary
) -> None:
    classes = _classes(dataset)
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
            available=nearest_names(absent[0], foreign or listing.names, limit=20),
            fix=f'metainfo=dict(classes={_short(listing.names)}) in the dataset',
        )
    if not listing.boxes and not dataset.test_mode:
        raise AnnotationError(
            f'{dataset.ann_file} holds no box to learn from',
            expected=f'boxes of {_short(classes)}',
            actual='; '.join(listing.remarks) or None,
            available=listing.names,
        )


def _order_note(dataset: CocoDataset | XMLDataset, listing: AnnotationSummary) -> str:
    classes = list(_classes(dataset))
    in_order = [name for name in listing.names if name in classes]
    if not isinstance(dataset, CocoDataset) or in_order == classes:
        return ''
    return (
        f'mmdet numbers the classes as this file does, {_short(in_order)}, '
        f'not as the config does, {_short(classes)}: names in results are exchanged'
    )


def _size_note(
    dataset: CocoDataset | XMLDataset,
    listing: AnnotationSummary,
    decoded: Mapping[str, tuple[int, int]],
) -> str:
    """On images that have another size than the annotations say."""
    wrong = [
        f'{path} is {size[0]}x{size[1]}, not {listed[0]:g}x{listed[1]:g}'
        for path, size in decoded.items()
        if (listed := listing.sizes.get(path)) and listed != size
    ]
    if 2 * len(wrong) > len(decoded):
        raise AnnotationError(
            f'{dataset.ann_file} is of images of other sizes',
            expected='width and height of the images, as OpenCV turns them (EXIF)',
            actual=f'{len(wrong)} of {len(decoded)} differ: {wrong[0]}',
            fix='the images that the boxes were drawn on, or their width and height',
        )
    return f'{len(wrong)} images of another size: {wrong[0]}' if wrong else ''


def _check_boxes(dataset: CocoDataset | XMLDataset, listing: AnnotationSummary) -> None:
    voc = isinstance(dataset, XMLDataset)
    if not listing.flat or _smallest(dataset) > 0:
        return
    where = 'annotation files' if voc else 'images with the ids'
    fix = 'filter_cfg=dict(bbox_min_size=1) in the dataset'
    if voc and dataset.test_mode:
        fix = '<difficult>1</difficult> in the object: an ignored region'
    elif voc:
        fix += ': they become ignored regions'
    else:
        fix += ': mmdet leaves them out in any case, and you know of it;\n'
        fix += 'or "iscrowd": 1 in the annotation'
    raise AnnotationError(
        f'{dataset.ann_file}: boxes without width or height, in '
        f'{len(listing.flat)} {where} {_short(listing.flat)}',
        expected='width and height above 0',
        fix=fix,
    )


def _short(names: Iterable[str], limit: int = 8) -> str:
    names = tuple(names)
    rest = f', ... {len(names) - limit} more' if len(names) > limit else ''
    return '(' + ', '.join(repr(name) for name in names[:limit]) + rest + ')'
