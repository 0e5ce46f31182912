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

from ...errors import HeadKindError
from ...structures import HeadOutput
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
    from ..readers.regions import RegionReader

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


def prove_logits(model: Any, where: str) -> None:
    """Raise unless the layer `fc_cls` of box heads yields their class logits.

    Args:
        model: A detector that `knows_box_heads` accepts. It is left as it is.
        where: Name of the model, for messages.

    Raises:
        HeadKindError: A box head changes them, in train or in eval mode.
    """
    name = f'{where}: fc_cls of {type(model.roi_head).__name__}'
    with proving(name):
        copy = spread_copy(model.roi_head)
        several = isinstance(copy.bbox_head, nn.ModuleList)
        for number in range(len(copy.bbox_head)) if several else [None]:
            stage = _Stage(copy, number)
            if hasattr(stage.head, 'fc_cls'):
                _compare_logits(stage, name)


def _compare_logits(stage: _Stage, name: str) -> None:
    """Compare what `fc_cls` yields with what the head yields, in both modes."""
    seen: list[Tensor] = []
    layer = stage.head.fc_cls
    layer.register_forward_hook(lambda _, args, output: seen.append(output))
    strides = stage.extractor.featmap_strides
    maps = tuple(
        torch.randn(1, stage.extractor.out_channels, *[-(-_SIDE // stride)] * 2)
        for stride in strides
    )
    for change_mode in (nn.Module.eval, train_without_norms):
        change_mode(stage.roi_head)
        logits, _ = stage.run(maps, _regions(maps[0]))
        if not torch.allclose(seen[-1], logits, atol=_SCORE):
            raise HeadKindError(
                f'{name}: the head changes what it yields',
                expected='the class logits of the whole head',
                actual=f'{float((seen[-1] - logits).abs().max()):.4g} apart',
                fix='ProposalKD on the whole heads, as in soft_two_stage.py',
            )


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

    @property
    def extractor(self) -> Any:
        extractor = self.roi_head.bbox_roi_extractor
        return extractor if self.number is None else extractor[self.number]

    def run(self, maps: Any, regions: Tensor) -> Any:
        """Return class logits and deltas."""
        stage = () if self.number is None else (self.number,)
        found = self.roi_head._bbox_forward(*stage, maps, regions)
        return found['cls_score'], found['bbox_pred']

    def read(self, reader: RegionReader, maps: Any, regions: Tensor) -> HeadOutput:
        """Read the head as a tap of the student is read."""
        own = type(reader)(self.head)
        given: list[Tensor] = []
        handle = self.extractor.register_forward_pre_hook(
            lambda _, args: given.append(args[1])
        )
        try:
            found = self.run(maps, regions)
        finally:
            handle.remove()
        level = tuple(part for part in found if part is not None)
        return own.read(self.head, [level], rois=(given[0] if given else regions,))

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
    from ..readers.regions import box_head_of, run_box_heads

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
