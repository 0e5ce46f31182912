"""The val split of BCCD, to choose on: the project's configs validate on test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mkd_det.config_files.reading import load_config
from mkd_det.io.json_files import write_json


def val_file(work_dir: Path) -> Path:
    """Return the file of `write_val`."""
    return work_dir.absolute() / 'bccd_val.json'


def use_val(cfg: Config, work_dir: Path) -> None:
    """Let a config of BCCD validate on the val split.

    Args:
        cfg: The config; it is changed.
        work_dir: Where `write_val` has written the split.
    """
    own = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = dict(
        type='CocoDataset',
        ann_file=str(val_file(work_dir)),
        data_prefix=dict(img=''),
        metainfo=own.metainfo,
        test_mode=True,
        pipeline=own.pipeline,
    )


def write_val(work_dir: Path) -> None:
    """Write the val split of BCCD as a COCO json.

    One of its boxes has no width, which Pascal VOC files cannot leave out of a
    validation, and `mkd-det label --precision` reads COCO's format.
    """
    init_default_scope('mmdet')
    cfg = load_config('mkd_det::bccd/gfl_r18-w16_bccd.py').val_dataloader.dataset
    given = dict(ann_file='ImageSets/Main/val.txt', pipeline=[])
    dataset = DATASETS.build({**cfg, **given})
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        one = dataset.get_data_info(index)
        size = dict(width=one['width'], height=one['height'])
        images.append(dict(id=index + 1, file_name=one['img_path'], **size))
        for box in one['instances']:
            x, y, right, bottom = box['bbox']
            w, h = right - x, bottom - y
            if w <= 0 or h <= 0:
                continue
            boxes.append(
                dict(
                    id=len(boxes) + 1,
                    image_id=index + 1,
                    category_id=box['bbox_label'] + 1,
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=0,
                )
            )
    names = dataset.metainfo['classes']
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(names)]
    file = val_file(work_dir)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, dict(images=images, annotations=boxes, categories=categories))
