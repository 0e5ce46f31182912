"""The metric that counts for a training."""

from __future__ import annotations

import pytest
from mmdet.evaluation import CocoMetric
from mmengine.config import Config

from mkd_det.errors import ConfigError
from mkd_det.experiments.runs.metrics import main_metric

BY_DATASET = dict(
    type='MultiDatasetsEvaluator',
    metrics=[dict(type='CocoMetric'), dict(type='CocoMetric')],
    dataset_prefixes=['a', 'b'],
)


@pytest.mark.parametrize(
    ('evaluator', 'wanted', 'key'),
    [
        (dict(type='CocoMetric'), '', 'coco/bbox_mAP'),
        (dict(type=CocoMetric), '', 'coco/bbox_mAP'),
        (dict(type='CocoMetric', metric=['bbox', 'segm']), 'coco/segm_mAP', ''),
        (dict(type='CocoMetric', prefix='val'), '', 'val/bbox_mAP'),
        (dict(type='CocoMetric', classwise=True), 'coco/RBC_precision', ''),
        (dict(type='CocoMetric', metric_items=['mAP_50']), '', 'coco/bbox_mAP_50'),
        (dict(type='VOCMetric', iou_thrs=[0.75]), 'pascal_voc/AP75', ''),
        (dict(type='mmdet.ClassAccuracy', topk=[2]), '', 'accuracy/top2'),
        (dict(type='MyMetric'), 'mine/score', ''),
        (dict(type='Evaluator', metrics=dict(type='VOCMetric')), '', 'pascal_voc/mAP'),
        (BY_DATASET, '', 'a/coco/bbox_mAP'),
        (BY_DATASET, 'b/coco/bbox_mAP_50', ''),
    ],
)
def test_metrics_of_known_evaluators(evaluator: dict, wanted: str, key: str) -> None:
    cfg = Config(dict(val_evaluator=evaluator))
    expected = key or wanted
    name = expected.rpartition('/')[2]
    assert main_metric(cfg, 'it', wanted) == (name, expected)


@pytest.mark.parametrize(
    ('evaluator', 'wanted'),
    [
        (None, ''),
        (dict(type='MyMetric'), ''),
        (dict(type='CocoMetric', metric='proposal'), ''),
        (dict(type='CocoMetric'), 'coco/segm_mAP'),
        (BY_DATASET, 'coco/bbox_mAP'),
        (dict(type='CocoMetric'), 'coco/RBC_precision'),
        (dict(type='VOCMetric', iou_thrs=[0.75]), 'pascal_voc/AP50'),
    ],
)
def test_metrics_that_are_not_measured_are_refused(
    evaluator: dict, wanted: str
) -> None:
    with pytest.raises(ConfigError, match='it: ') as caught:
        main_metric(Config(dict(val_evaluator=evaluator)), 'it', wanted)
    assert caught.value.available
