"""The data part of a student's config fits the data and what the student learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

import tiny
from mkd_det.data.layouts import Layout, find_layout
from mkd_det.errors import AnnotationError
from mkd_det.experiments.distillation.data_part import data_part


def layout_of(root: Path, masks: bool) -> Layout:
    data = tiny.write_coco(root, images=6)
    file = data / 'annotations.json'
    content = json.loads(file.read_text())
    for one in content['annotations']:
        x, y, w, h = one['bbox']
        if masks:
            one['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    file.write_text(json.dumps(content))
    return find_layout(file)


def student(root: Path, with_mask: bool, metric: Any, whole: bool = False) -> Config:
    cfg = tiny.runner_cfg(tiny.mask_rcnn(4, 8), root, root / 'run')
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.pipeline[1]['with_mask'] = with_mask
    for split in ('val', 'test'):
        evaluator = {**cfg[f'{split}_evaluator'], 'metric': metric}
        cfg[f'{split}_evaluator'] = [evaluator] if whole else evaluator
    return cfg


@pytest.mark.parametrize('whole', [False, True])
@pytest.mark.parametrize(
    ('masks', 'metric', 'expected'),
    [
        (True, ['bbox', 'segm'], ['bbox', 'segm']),
        (False, ['bbox', 'segm'], 'bbox'),
        (False, 'segm', 'bbox'),
        (False, 'proposal_fast', 'proposal_fast'),
    ],
)
def test_metrics_stay_those_that_can_be_measured(
    tmp_path: Path, masks: bool, metric: Any, expected: Any, whole: bool
) -> None:
    layout = layout_of(tmp_path, masks)
    cfg = student(tmp_path, masks, metric, whole)
    parts = data_part(cfg, layout, layout.files(tmp_path))
    assert parts['val_evaluator']['metric'] == expected


def test_a_student_of_masks_needs_masks(tmp_path: Path) -> None:
    layout = layout_of(tmp_path, masks=False)
    cfg = student(tmp_path, True, ['bbox', 'segm'])
    with pytest.raises(AnnotationError, match='this data has no masks'):
        data_part(cfg, layout, layout.files(tmp_path))
