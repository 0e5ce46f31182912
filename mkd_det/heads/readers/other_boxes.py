"""Reads dense heads with codings of boxes or scores of their own."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.dense_heads import (
    CenterNetUpdateHead,
    FoveaHead,
    SABLRetinaHead,
    TOODHead,
    YOLACTHead,
)
from mmdet.structures.bbox import distance2bbox
from torch import Tensor, nn

from ...registry import HEADS
from ...structures import Level, full_precision
from ..proofs.predictions import Predictions, image_metas, keep_all, of_all_classes
from .dense import DenseReader, rows

# Probabilities are kept this far from 0 and 1 before their logit is taken.
_EPS = 1e-6


@HEADS.register_module()
class CenterNetUpdateReader(DenseReader):
    """Reads CenterNet-update: distances in strides in training, in pixels in eval."""

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is a CenterNet-update head."""
        return isinstance(module, CenterNetUpdateHead)

    def decode(self, head: Any, sides: Tensor, priors: Tensor, index: int) -> Tensor:
        """Decode distances from the middles of cells."""
        if head.training:
            sides = sides * self._strides(head)[index]
        return distance2bbox(priors.expand(len(sides), -1, -1), sides)


@HEADS.register_module()
class FoveaReader(DenseReader):
    """Reads FoveaBox: logs of distances, in base lengths of the level."""

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is a FoveaBox head."""
        return isinstance(module, FoveaHead)

    def decode(self, head: Any, sides: Tensor, priors: Tensor, index: int) -> Tensor:
        """Decode distances from the middles of cells."""
        distances = sides.exp() * head.base_edge_list[index]
        return distance2bbox(priors.expand(len(sides), -1, -1), distances)


@HEADS.register_module()
class TOODReader(DenseReader):
    """Reads TOOD: probabilities, turned into logits, and boxes in strides."""

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is a TOOD head."""
        return isinstance(module, TOODHead)

    def logits(self, head: Any, level: Level) -> Tensor:
        """Return the logits of the aligned class probabilities, (N, P, C)."""
        return super().logits(head, level).logit(_EPS)

    def decode(self, head: Any, sides: Tensor, priors: Tensor, index: int) -> Tensor:
        """Return boxes in pixels."""
        return sides * self._strides(head)[index]


@HEADS.register_module()
class SABLReader(DenseReader):
    """Reads SABL: sides in buckets, by the head's own coder.

    The confidence in the buckets only ranks results and is left out. Decoding picks
    the best bucket, so that a gradient flows through its refinement alone.
    """

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is a SABL head."""
        return isinstance(module, SABLRetinaHead)

    def sides(self, head: Any, level: Level) -> Tensor:
        """Return scores and refinements of the buckets, (N, P, 2 * 4 * sides)."""
        width = 4 * head.side_num
        parts = [rows(full_precision(part), width) for part in level[1:3]]
        return torch.cat(parts, -1)

    def decode(self, head: Any, sides: Tensor, priors: Tensor, index: int) -> Tensor:
        """Decode the boxes by the head's coder."""
        images, places = sides.shape[:2]
        parts = [part.contiguous() for part in sides.flatten(0, 1).chunk(2, -1)]
        boxes, _ = head.bbox_coder.decode(priors.repeat(images, 1), parts)
        return boxes.view(images, places, 4)

    def priors(self, head: Any, sizes: list[Any], device: Any) -> list[Tensor]:
        """Return the square anchors (P, 4) of all levels."""
        return head.square_anchor_generator.grid_priors(sizes, device=device)

    def level_strides(self, head: Any) -> tuple[int | None, ...]:
        """Return the strides of the square anchors."""
        return tuple(s[0] for s in head.square_anchor_generator.strides)


@HEADS.register_module()
class YOLACTReader(DenseReader):
    """Reads YOLACT: as other heads; its own predictions come class by class.

    The coefficients of masks are left out.
    """

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is a YOLACT head."""
        return isinstance(module, YOLACTHead)

    def predict(self, head: Any, output: Any, images: int) -> list[Predictions]:
        """Return the head's own predictions without NMS, for `prove`."""

        def flat(multi_bboxes: Tensor, multi_scores: Tensor, **_: Any) -> Any:
            scores = multi_scores[:, : head.num_classes]
            found.append(of_all_classes(multi_bboxes, scores))

        found: list[Predictions] = []
        object.__setattr__(head, '_bbox_post_process', flat)
        parts = [list(part) for part in output]
        head.predict_by_feat(
            *parts,
            batch_img_metas=image_metas(images),
            cfg=keep_all(head),
            rescale=False,
        )
        return found
