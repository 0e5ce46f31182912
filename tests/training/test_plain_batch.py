"""A batch survives as plain types, and what cannot is named."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks

import tiny
from mkd_det.checkpoints.archive import load_plain
from mkd_det.training.plain_batch import pack, unpack


def through_a_file(value: Any) -> Any:
    lost: list[str] = []
    buffer = io.BytesIO()
    torch.save(pack(value, lost), buffer)
    assert lost == []
    buffer.seek(0)
    return unpack(load_plain(buffer))


def test_a_batch_of_a_detector_survives() -> None:
    batch = tiny.batch()
    batch['data_samples'][0].gt_instances.bboxes = HorizontalBoxes(torch.rand(2, 4))
    again = through_a_file(batch)
    assert all(map(torch.equal, again['inputs'], batch['inputs']))
    for mine, theirs in zip(again['data_samples'], batch['data_samples'], strict=True):
        assert type(mine) is DetDataSample
        assert dict(mine.metainfo_items()) == dict(theirs.metainfo_items())
        assert torch.equal(mine.gt_instances.labels, theirs.gt_instances.labels)
    boxes = again['data_samples'][0].gt_instances.bboxes
    assert isinstance(boxes, HorizontalBoxes)
    assert torch.equal(
        boxes.tensor, batch['data_samples'][0].gt_instances.bboxes.tensor
    )
    assert len(again['data_samples'][1].gt_instances) == 2


def test_masks_arrays_and_numbers_survive() -> None:
    bits = BitmapMasks(np.eye(4, dtype=np.uint8)[None], 4, 4)
    polygons = PolygonMasks([[np.array([0.0, 0, 3, 0, 3, 3])]], 4, 4)
    value = dict(
        a=bits, b=polygons, c=np.float32(0.5), d=np.arange(3), e=(1, None, 'x', True)
    )
    again = through_a_file(value)
    assert (again['a'].masks == bits.masks).all()
    assert (again['b'].masks[0][0] == polygons.masks[0][0]).all()
    assert again['b'].height == 4
    assert (again['d'] == np.arange(3)).all() and again['d'].dtype == np.arange(3).dtype
    assert (again['c'], again['e']) == (0.5, (1, None, 'x', True))


def test_what_cannot_be_packed_is_named() -> None:
    lost: list[str] = []
    assert pack([1, object()], lost) == [1, None]
    assert lost == ['object']
