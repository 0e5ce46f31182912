"""Reads CenterNet: a heat map of centres, with sizes and offsets."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.dense_heads import CenterNetHead, CornerHead
from mmengine.config import ConfigDict
from torch import Tensor, nn

from ...errors import HeadKindError
from ...registry import HEADS
from ...structures import Level, full_precision
from ..proofs.predictions import Predictions, image_metas
from .dense import DenseReader, rows

# Probabilities are kept this far from 0 and 1 before their logit is taken.
_EPS = 1e-6


@HEADS.register_module()
class CenterNetReader(DenseReader):
    """Reads CenterNet: the heat map, turned into logits, and a box at every place.

    Predictions are the local maxima of the heat map; here all places are read.
    """

    def __init__(self, head: Any) -> None:
        super().__init__(head)
        self.activation = 'sigmoid'
        self.strides = (4,)

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is a CenterNet head."""
        return isinstance(module, CenterNetHead)

    @staticmethod
    def count_classes(head: Any) -> int:
        """Return the number of classes."""
        return head.num_classes

    def logits(self, head: Any, level: Level) -> Tensor:
        """Return the logits of the heat map, (N, P, C)."""
        return super().logits(head, level).logit(_EPS)

    def sides(self, head: Any, level: Level) -> Tensor:
        """Return width, height, and offset of the centre, in cells, (N, P, 4)."""
        parts = [rows(full_precision(part), 2) for part in level[1:3]]
        return torch.cat(parts, -1)

    def decode(self, head: Any, sides: Tensor, priors: Tensor, index: int) -> Tensor:
        """Decode boxes around the centres."""
        stride = self._strides(head)[index]
        size, offset = sides[..., :2] * stride, sides[..., 2:] * stride
        centre = priors + offset
        return torch.cat([centre - size / 2, centre + size / 2], -1)

    def priors(self, head: Any, sizes: list[Any], device: Any) -> list[Tensor]:
        """Return the corners (P, 2) of the cells."""
        grids = []
        for (height, width), stride in zip(sizes, self._strides(head), strict=True):
            y, x = torch.meshgrid(
                torch.arange(height, device=device),
                torch.arange(width, device=device),
                indexing='ij',
            )
            grids.append(torch.stack([x, y], -1).reshape(-1, 2).float() * stride)
        return grids

    def level_strides(self, head: Any) -> tuple[int | None, ...]:
        """Return the stride that the plan found: the head does not know it."""
        return self.strides

    def predict(self, head: Any, output: Any, images: int) -> list[Predictions]:
        """Return the head's own predictions, of all places, for `prove`."""
        heat = output[0][0]
        sides = heat.shape[-2:]
        head.test_cfg = ConfigDict(topk=heat[0].numel(), local_maximum_kernel=1)
        shape = tuple(side * self.strides[0] for side in sides)
        metas = [
            {**meta, 'batch_input_shape': shape, 'border': [0.0] * 4}
            for meta in image_metas(images)
        ]
        found = head.predict_by_feat(
            *output, batch_img_metas=metas, rescale=False, with_nms=False
        )
        return [Predictions(r.bboxes, r.scores, r.labels.long(), None) for r in found]


@HEADS.register_module()
class CornerReader(DenseReader):
    """Refuses CornerNet and its kin: their boxes are pairs of corners.

    A place has the score of a corner; which corners belong together is known only
    after grouping, so that boxes cannot be compared place by place.
    """

    def __init__(self, head: Any) -> None:
        raise HeadKindError(
            f'{type(head).__name__} predicts corners, not boxes',
            expected='a head with a box at every place',
            actual=type(head).__name__,
            fix="a loss on features: taps=dict(stages='backbone')",
        )

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is a CornerNet or CentripetalNet head."""
        return isinstance(module, CornerHead)
