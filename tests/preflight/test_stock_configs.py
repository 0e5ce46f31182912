"""Configs of mmdet, as they are, pass all checks of a training on data of theirs.

One of each kind that some check has to leave alone: heads with an initialisation of
their own, modules that mmengine does not initialise, detectors of one class, wrapped
data sets, mode switches, masks, queries.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config

import tiny
from mkd_det.config_files.reading import load_config
from mkd_det.preflight.checks import check_before_start
from mkd_det.training.runtime import prepare_config

CONFIGS = [
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco',
    'centernet/centernet_r18_8xb16-crop512-140e_coco',
    'dino/dino-4scale_r50_8xb2-12e_coco',
    'pvt/retinanet_pvtv2-b0_fpn_1x_coco',
    'rpn/rpn_r50_fpn_1x_coco',
    'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco',
    'solov2/solov2_r50_fpn_1x_coco',
    'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco',
    'tridentnet/tridentnet_r50-caffe_1x_coco',
    'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco',
    'yolof/yolof_r50-c5_8xb8-1x_coco',
    'yolox/yolox_tiny_8xb8-300e_coco',
]


@pytest.fixture(scope='module')
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images with COCO's 80 classes, and masks."""
    root = tiny.write_coco(tmp_path_factory.mktemp('coco'), images=4)
    file = root / 'annotations.json'
    content = json.loads(file.read_text())
    names = CocoDataset.METAINFO['classes']
    content['categories'] = [dict(id=i + 1, name=n) for i, n in enumerate(names)]
    for one in content['annotations']:
        x, y, w, h = one['bbox']
        one['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    file.write_text(json.dumps(content))
    return root


def with_data(cfg: Config, root: Path) -> dict[str, Any]:
    """Put data into a config, and leave out what would be downloaded."""
    made = cfg.to_dict()
    for split in ('train', 'val', 'test'):
        loader = made[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        dataset = loader['dataset']
        while 'dataset' in dataset:
            dataset = dataset['dataset']
        prefix = dict(img=f'{root}/images')
        dataset.update(data_root='', data_prefix=prefix)
        dataset['ann_file'] = f'{root}/annotations.json'
    for split in ('val', 'test'):
        made[f'{split}_evaluator']['ann_file'] = f'{root}/annotations.json'
    _without_files(made['model'])
    return made


def _without_files(part: Any) -> None:
    for value in part.values() if isinstance(part, dict) else part:
        if isinstance(value, dict) and 'checkpoint' in (value.get('init_cfg') or {}):
            value['init_cfg'] = None
        if isinstance(value, (dict, list)):
            _without_files(value)


@pytest.mark.parametrize('name', CONFIGS)
def test_a_stock_config_passes(name: str, coco: Path, tmp_path: Path) -> None:
    cfg = Config(with_data(load_config(f'mmdet::{name}.py'), coco))
    cfg.work_dir, cfg.launcher = str(tmp_path / 'run'), 'none'
    check_before_start(prepare_config(cfg))
