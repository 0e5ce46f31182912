"""How many classes a model has, whatever it is."""

from __future__ import annotations

from mmdet.registry import MODELS

import stock
import tiny
from mkd_det.class_maps.counting import class_count


def test_the_last_head_counts() -> None:
    for cfg in (tiny.gfl(), tiny.faster_rcnn(), tiny.cascade_mask_rcnn(), tiny.detr()):
        assert class_count(tiny.build(cfg)) == 3


def test_an_rpn_finds_objects_of_any_class() -> None:
    """mmdet trains it on all classes as one, whatever the data has."""
    cfg = stock.narrow_resnet(stock.model_of('rpn/rpn_r50_fpn_1x_coco'))
    model = MODELS.build(cfg)
    assert model.bbox_head.num_classes == 1 and class_count(model) is None
