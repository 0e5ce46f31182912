"""A teacher of other classes is measured on what it shares with the data."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import BaseDataElement, InstanceData

from mkd_det.class_maps.class_map import Classes, ClassMap
from mkd_det.class_maps.samples import shared_metainfo, shared_samples

MAP = ClassMap(
    't', Classes(3, ('a', 'b', 'c')), Classes(4), ((2,), (), (0, 3)), ('',) * 3
)


def instances(labels: list[int]) -> InstanceData:
    return InstanceData(
        labels=torch.tensor(labels),
        bboxes=torch.arange(len(labels))[:, None].expand(-1, 4).float(),
        scores=torch.ones(len(labels)),
    )


def detected(found: list[int], truth: list[int]) -> DetDataSample:
    sample = DetDataSample(
        metainfo=dict(instances=[dict(bbox_label=label) for label in truth])
    )
    sample.pred_instances, sample.gt_instances = instances(found), instances(truth)
    return sample


def test_boxes_of_classes_that_are_not_shared_are_left_out() -> None:
    given = detected([0, 1, 2, 3], [0, 1, 2])
    (sample,) = shared_samples([given], MAP)
    assert sample.pred_instances.labels.tolist() == [1, 0, 1]
    assert sample.pred_instances.bboxes[:, 0].tolist() == [0, 2, 3]
    assert sample.gt_instances.labels.tolist() == [0, 1]
    assert [one['bbox_label'] for one in sample.instances] == [0, 1]
    # What was predicted stays as it is.
    assert given.pred_instances.labels.tolist() == [0, 1, 2, 3]
    assert len(given.instances) == 3
    (empty,) = shared_samples([detected([], [])], MAP)
    assert empty.pred_instances.labels.tolist() == []


def classified(label: int) -> Any:
    sample = BaseDataElement()
    sample.gt_label = torch.tensor([label])
    sample.pred_score = torch.tensor([0.1, 0.4, 0.2, 0.3])
    sample.pred_label = torch.tensor([1])
    return sample


def test_images_of_a_class_that_is_not_shared_are_left_out() -> None:
    samples = shared_samples([classified(label) for label in (0, 1, 2)], MAP)
    assert [int(sample.gt_label) for sample in samples] == [0, 1]
    for sample in samples:
        assert torch.allclose(sample.pred_score, torch.tensor([0.2, 0.4]) / 0.6)
        assert int(sample.pred_label) == 1


def test_metrics_are_told_the_shared_classes() -> None:
    meta = dict(classes=('a', 'b', 'c'), palette=[1])
    assert shared_metainfo(meta, MAP) == dict(classes=('a', 'c'), palette=[1])
    assert shared_metainfo([meta], MAP)[0]['classes'] == ('a', 'c')
