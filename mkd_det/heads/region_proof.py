"""Proves that the box heads of a two-stage detector are read exactly.

The second stage is copied and its weights are spread; it runs on random features and
regions. One box head must be read as its own `predict_by_feat` predicts, in train and
in eval mode, and what a probe makes of all stages must be what `predict_bbox` predicts,
in both cases without NMS.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..errors import HeadKindError
from ..structures import HeadOutput
from .predictions import image_metas
from .proof import (
    OTHERWISE,
    ReadTwice,
    compare_modes,
    proving,
    spread_copy,
    train_without_norms,
)

if TYPE_CHECKING:
    from .readers.regions import RegionReader

# Side of the image and number of regions in the proof.
_SIDE, _REGIONS = 128, 24
# Allowed differences: of boxes in pixels, of probabilities.
_PIXELS, _SCORE = 0.1, 1e-3


def prove_regions(
    reader: RegionReader,
    model: Any,
    head: nn.Module,
    features: Sequence[Tensor],
    where: str,
) -> ReadTwice:
    """Raise unless a box head is read as it predicts.

    Args:
        reader: The reader of the head.
        model: The detector. It is left as it is.
        head: Its box head, or that of one stage of a cascade.
        features: Maps like those that the second stage gets.
        where: Name of the head, for messages.

    Returns:
        What is read in both modes.

    Raises:
        HeadKindError: It is read otherwise, or cannot be run.
    """
    name = f'{where}: {type(head).__name__} of {type(model.roi_head).__name__}'
    with proving(name):
        copy = spread_copy(model.roi_head)
        paths = {id(one): path for path, one in model.roi_head.named_modules()}
        stage = paths[id(head)].rpartition('.')[2]
        own = _Stage(copy, int(stage) if stage.isdigit() else None)
        maps = tuple(
            torch.randn(1, m.shape[1], *_sizes(m, features[0])).to(m) for m in features
        )
        regions = _regions(maps[0])
        copy.eval()
        evaluated = own.read(reader, maps, regions)
        own.compare(evaluated, maps, regions, name)
        _compare_probe(copy, reader, maps, regions, name)
        train_without_norms(copy)
        trained = own.read(reader, maps, regions)
        compare_modes(trained, evaluated, (), name)
        return ReadTwice(trained, evaluated)
    raise AssertionError  # the context raises or returns


class _Stage:
    """One box head of a copied second stage.

    Args:
        roi_head: The copy.
        number: Index of the stage of a cascade; None for heads without stages.
    """

    def __init__(self, roi_head: Any, number: int | None) -> None:
        self.roi_head, self.number = roi_head, number

    @property
    def head(self) -> Any:
        heads = self.roi_head.bbox_head
        return heads if self.number is None else heads[self.number]

    def run(self, maps: Any, regions: Tensor) -> Any:
        """Return class logits and deltas."""
        stage = () if self.number is None else (self.number,)
        found = self.roi_head._bbox_forward(*stage, maps, regions)
        return found['cls_score'], found['bbox_pred']

    def read(self, reader: RegionReader, maps: Any, regions: Tensor) -> HeadOutput:
        """Read the head as a tap of the student is read."""
        own = type(reader)(self.head)
        level = tuple(part for part in self.run(maps, regions) if part is not None)
        return own.read(self.head, [level], rois=(regions,))

    def compare(
        self, output: HeadOutput, maps: Any, regions: Tensor, name: str
    ) -> None:
        """Compare what is read with what the head predicts."""
        scores, deltas = self.run(maps, regions)
        (found,) = self.head.predict_by_feat(
            rois=(regions,),
            cls_scores=(scores,),
            bbox_preds=(deltas,),
            batch_img_metas=_metas(),
            rcnn_test_cfg=None,
            rescale=False,
        )
        _compare(output, found, name)


def _compare_probe(
    roi_head: Any, reader: RegionReader, maps: Any, regions: Tensor, name: str
) -> None:
    """Compare what a probe makes of all stages with what the second stage predicts."""
    from .readers.regions import box_head_of, run_box_heads

    model = SimpleNamespace(roi_head=roi_head)
    level = run_box_heads(model, maps, regions, image_sizes=[(_SIDE, _SIDE)])
    last = box_head_of(model)
    output = type(reader)(last).read(last, [level])
    if output.boxes is None and len(level) == 1 and roi_head.bbox_head is last:
        return  # boxes come from elsewhere (Grid R-CNN), and none are read
    given = [InstanceData(bboxes=regions[:, 1:])]
    found = roi_head.predict_bbox(maps, _metas(), given, rcnn_test_cfg=None)
    _compare(output, found[0], name)


def _compare(output: HeadOutput, found: Any, name: str) -> None:
    """Compare region by region; boxes are clipped to the image on both sides."""
    apart = (output.scores[0].softmax(-1) - found.scores).abs()
    if not bool((apart <= _SCORE).all()):
        raise HeadKindError(
            f'{name}: scores are not read as the head predicts them',
            expected='the scores of its own predict_by_feat, before NMS',
            actual=f'{float(apart.nan_to_num(1e9).max()):.4g} apart',
            fix=OTHERWISE,
        )
    if output.boxes is None:
        return
    boxes = output.boxes[0].clamp(0, _SIDE)
    apart = (boxes - found.bboxes.view_as(boxes)).abs()
    if not bool((apart <= _PIXELS).all()):
        raise HeadKindError(
            f'{name}: boxes are not read as the head predicts them',
            expected='the boxes of its own predict_by_feat, before NMS',
            actual=f'{float(apart.nan_to_num(1e9).max()):.4g} px apart',
            fix=OTHERWISE,
        )


def _sizes(level: Tensor, first: Tensor) -> tuple[int, int]:
    """Return (H, W) of a map of the image of the proof; the first has stride 4."""
    by = max(first.shape[-1] // level.shape[-1], 1)
    return (-(-_SIDE // (4 * by)),) * 2


def _metas() -> list[dict[str, Any]]:
    shape = (_SIDE, _SIDE)
    return [{**image_metas(1)[0], 'img_shape': shape, 'ori_shape': shape}]


def _regions(like: Tensor) -> Tensor:
    """Return random regions (R, 5) of one image."""
    corner = torch.rand(_REGIONS, 2) * _SIDE / 2
    size = 4 + torch.rand(_REGIONS, 2) * (_SIDE / 2 - 4)
    index = torch.zeros(_REGIONS, 1)
    return torch.cat([index, corner, corner + size], 1).to(like)
