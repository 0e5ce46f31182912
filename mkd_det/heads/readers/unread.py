"""Refuses heads of mmdet that cannot be read place by place, and says what can be done.

Readers of later files come first: this one sees a head before the general reader does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.models.dense_heads import (
    ATSSVLFusionHead,
    CascadeRPNHead,
    EmbeddingRPNHead,
    GARetinaHead,
    GARPNHead,
    GroundingDINOHead,
    MaskFormerHead,
    SOLOHead,
    SOLOV2Head,
)
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from torch import nn

from ...errors import HeadKindError
from ...registry import HEADS
from ...taps import Tap
from ..base import HeadReader, find_reader, reader_classes

# Why each kind cannot be read.
REASONS = {
    ATSSVLFusionHead: 'its classes are words of a prompt',
    GroundingDINOHead: 'its classes are words of a prompt',
    CascadeRPNHead: 'the anchors of a stage are what the one before it predicts',
    GARetinaHead: 'its anchors are predicted for each image',
    GARPNHead: 'its anchors are predicted for each image',
    EmbeddingRPNHead: 'its proposals are learned, and its scores are none',
    MaskFormerHead: 'it predicts masks of queries, and no boxes',
    SOLOHead: 'it predicts masks of cells, and no boxes',
    SOLOV2Head: 'it predicts masks of cells, and no boxes',
}
# Those that run on the maps of the neck alone, also on a CPU.
_ON_FEATURES = (SOLOHead, SOLOV2Head)


@HEADS.register_module()
class UnreadReader(HeadReader):
    """Refuses a head whose scores and boxes are not known place by place.

    Features of its model can be distilled, before and inside of the head.
    """

    name = 'unread'

    def __init__(self, head: Any) -> None:
        known = (why for cls, why in REASONS.items() if isinstance(head, cls))
        name = type(head).__name__
        raise HeadKindError(
            f'{name} cannot be read: {next(known, "no reader knows it")}',
            expected='a head with scores, and boxes, at places or queries that the head'
            ' of another model has as well',
            actual=name,
            fix="a loss on features: taps=dict(fpn='neck') with FeatureKD; or a reader"
            ' of your own for this head (see the page on extending)',
        )

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is one of them, or a head that no reader knows."""
        if isinstance(module, tuple(REASONS)):
            return True
        others = (kind for kind in reader_classes() if kind is not cls)
        return isinstance(module, BaseDenseHead) and not any(
            kind.matches(module) for kind in others
        )

    @classmethod
    def check_tap(
        cls, model: nn.Module, tap: Tap, of_student: bool, where: str
    ) -> None:
        """Raise where the whole head is tapped, before the model is run."""
        modules = dict(model.named_modules())
        for path in tap.paths if not tap.inputs else ():
            module = modules.get(path)
            if module is not None and find_reader(module) is cls:
                cls(module)

    @classmethod
    def run(cls, model: Any, head: Any, features: Any, samples: Sequence[Any]) -> None:
        """Run the head, so that taps inside of it fire, if it needs features alone."""
        special = isinstance(head, tuple(REASONS))
        if isinstance(head, _ON_FEATURES) or not special:
            head(features)
