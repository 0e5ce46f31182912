"""The data part of a student's config, for a dataset of the user."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...data.layouts import Layout
from ...errors import ConfigError


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
        path, leaf = _innermost(cfg[loader]['dataset'], f'_base_.{loader}.dataset')
        file, images = files[split if split in files else 'val']
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
        if split == 'train':
            dataset['filter_cfg'] = dict(filter_empty_gt=True, bbox_min_size=1)
        else:
            dataset['test_mode'] = True
        assert leaf is not None
        depth = path.count('.dataset') - 1
        for _ in range(depth):
            dataset = dict(dataset=dataset)
        parts[loader] = dict(dataset=dataset)
        if split != 'train':
            parts[f'{split}_evaluator'] = dict(
                _delete_=True, type='CocoMetric', ann_file=str(file), metric='bbox'
            )
    return parts


def _same_pipelines(cfg: Mapping[str, Any]) -> bool:
    """Return whether the data of validation and test are read alike."""
    val, test = (cfg[f'{split}_dataloader']['dataset'] for split in ('val', 'test'))
    return 'dataset' not in val and val.get('pipeline') == test.get('pipeline')


def _innermost(dataset: Any, path: str) -> tuple[str, Mapping[str, Any]]:
    """Return the path and the config of the dataset inside wrappers."""
    while isinstance(dataset.get('dataset'), Mapping):
        dataset, path = dataset['dataset'], f'{path}.dataset'
    if 'pipeline' not in dataset:
        raise ConfigError(
            f'{path} has no pipeline that another dataset could use',
            actual=dataset.get('type'),
            fix='write the data part of the config yourself, and leave --data out',
        )
    return path, dataset
