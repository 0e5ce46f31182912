"""The data part of a student's config, for a dataset of the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.layouts import Layout, Split
from ...data.pipelines import loads_masks
from ...errors import AnnotationError, ConfigError


class Expression(str):
    """Text of an expression in a config that is written, such as `_base_.x`."""

    def __repr__(self) -> str:
        return str(self)


def data_part(
    cfg: Mapping[str, Any], layout: Layout, files: Mapping[str, tuple[Path, Path]]
) -> dict[str, Any]:
    """Return what to change in a student's config so that it reads a dataset.

    Pipelines, samplers and batch sizes stay those of the config.

    Args:
        cfg: The student's config.
        layout: The dataset.
        files: Annotation file and folder of images by split, as `Layout.write` returns
            them.

    Raises:
        ConfigError: The config has no data whose pipelines can be used.
        AnnotationError: It loads masks, and the data has none.
    """
    parts: dict[str, Any] = {'classes': layout.classes}
    for split in ('train', 'val', 'test'):
        loader = f'{split}_dataloader'
        if not isinstance(cfg.get(loader), Mapping):
            if split == 'test':
                continue
            raise ConfigError(
                f'the config of the student has no {loader}, so that its pipeline is'
                ' not known',
                fix='--student mmdet::retinanet/retinanet_r50_fpn_1x_coco.py, or'
                ' another whole config of a training',
            )
        if split == 'test' and 'test' not in files and _same_pipelines(cfg):
            parts |= {
                f'test_{part}': Expression(f'val_{part}')
                for part in ('dataloader', 'evaluator')
            }
            continue
        source = split if split in files else 'val'
        parts |= _split_part(cfg, split, layout.splits[source], files[source])
    return parts


def _split_part(
    cfg: Mapping[str, Any], name: str, split: Split, files: tuple[Path, Path]
) -> dict[str, Any]:
    """Return loader and evaluator of a split, with the pipeline of the config."""
    loader = f'{name}_dataloader'
    own = cfg[loader]['dataset']
    path = _innermost(own, f'_base_.{loader}.dataset')
    if loads_masks(own) and split.without_mask:
        count = len(split.content['annotations'])
        raise AnnotationError(
            f'this data has no masks for {split.without_mask} of the {count} objects of'
            f' {name}, and the model learns masks',
            expected='polygons: "segmentation" of COCO, or class x1 y1 x2 y2 ... of'
            ' YOLO',
            actual=f'boxes alone, in {split.file or split.images}',
            fix='a model without masks: --student'
            ' mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        )
    file, images = files
    dataset: dict[str, Any] = dict(
        _delete_=True,
        type='CocoDataset',
        metainfo=dict(classes=Expression('classes')),
        data_root='',
        ann_file=str(file),
        data_prefix=dict(img=f'{images}/'),
        pipeline=Expression(f'{path}.pipeline'),
        backend_args=None,
    )
    if name == 'train':
        dataset['filter_cfg'] = dict(filter_empty_gt=True, bbox_min_size=1)
    else:
        dataset['test_mode'] = True
    for _ in range(path.count('.dataset') - 1):
        dataset = dict(dataset=dataset)
    parts: dict[str, Any] = {loader: dict(dataset=dataset)}
    if name != 'train':
        parts[f'{name}_evaluator'] = dict(
            _delete_=True,
            type='CocoMetric',
            ann_file=str(file),
            metric=_metrics(cfg.get(f'{name}_evaluator'), not split.without_mask),
        )
    return parts


def _metrics(evaluator: Any, has_masks: bool) -> str | list[str]:
    """Return what a config's CocoMetric measures, of what the data allows."""
    if isinstance(evaluator, Mapping) and 'metrics' in evaluator:
        evaluator = evaluator['metrics']
    for one in evaluator if isinstance(evaluator, Sequence) else [evaluator]:
        kind = one.get('type') if isinstance(one, Mapping) else None
        if getattr(kind, '__name__', str(kind)).endswith('CocoMetric'):
            named = one.get('metric', 'bbox')
            named = [named] if isinstance(named, str) else list(named)
            kept = [metric for metric in named if has_masks or metric != 'segm']
            return kept if len(kept) > 1 else (kept or ['bbox'])[0]
    return 'bbox'


def _same_pipelines(cfg: Mapping[str, Any]) -> bool:
    """Return whether the data of validation and test are read alike."""
    val, test = (cfg[f'{split}_dataloader']['dataset'] for split in ('val', 'test'))
    return 'dataset' not in val and val.get('pipeline') == test.get('pipeline')


def _innermost(dataset: Any, path: str) -> str:
    """Return the path of the dataset inside wrappers."""
    while isinstance(dataset.get('dataset'), Mapping):
        dataset, path = dataset['dataset'], f'{path}.dataset'
    if 'pipeline' not in dataset:
        raise ConfigError(
            f'{path} has no pipeline that another dataset could use',
            actual=dataset.get('type'),
            fix='write the data part of the config yourself, and leave --data out',
        )
    return path
