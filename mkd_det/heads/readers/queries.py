"""Reads heads of set predictions (DETR, DINO): class logits and boxes of queries."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from mmdet.models.dense_heads import DDQDETRHead, DETRHead
from mmdet.models.detectors.base_detr import DetectionTransformer
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from ...errors import HeadKindError, PlanError, TeacherClassesError
from ...registry import HEADS
from ...structures import HeadOutput, Level, full_precision
from ...taps import Tap
from ..base import HeadReader, TappedHead
from ..decoding import call_layout
from ..proofs.predictions import arguments_of
from ..proofs.proof import OTHERWISE, ReadTwice
from ..proofs.queries import prove_queries

# A whole layer of the decoder.
_LAYER = re.compile(r'decoder\.layers\.(\*|\d+)')


@HEADS.register_module()
class QueryReader(HeadReader):
    """Reads the queries of DETR and of every head that is derived of it, as of DINO.

    Every decoder layer is a level. The last one is the output, those before it are
    `HeadOutput.earlier`. Boxes are x1, y1, x2, y2 in units of the image's sides, from
    0 to 1, as the head learns them. Queries have no common order in two models: only
    losses that match them can compare them (`QueryKD`).

    Denoising queries and the dense queries of DDQ, which are there in training only,
    are left out.

    Traits: 'queries' and the activation.

    Attributes:
        queries: Number of queries in eval mode, found in the plan's run; 0 before it.

    Args:
        head: The head whose output is read.
    """

    name: ClassVar[str] = 'queries'
    aligned: ClassVar[bool] = False

    def __init__(self, head: Any) -> None:
        super().__init__(head)
        self.activation = 'sigmoid' if head.loss_cls.use_sigmoid else 'softmax'
        self.queries = 0

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is the head of a DETR, or derived of it."""
        return isinstance(module, DETRHead)

    @classmethod
    def layout(cls, value: Any) -> list[Level] | None:
        """Make a level of each decoder layer: class logits and boxes."""
        parts = len(value) if isinstance(value, (tuple, list)) else 1
        if parts != 2:
            raise HeadKindError(
                'a head of queries yields something else than class logits and boxes',
                expected='a tuple of both, each (layers, N, Q, C), as DETRHead',
                actual=f'{type(value).__name__} of {len(value)}',
                fix=OTHERWISE,
            )
        return [tuple(layer) for layer in zip(*value, strict=True)]

    @classmethod
    def check_tap(
        cls, model: nn.Module, tap: Tap, of_student: bool, where: str
    ) -> None:
        """Raise where a tap in the decoder has no rows that can be compared."""
        inside = [path for path in tap.paths if path.split('.')[0] == 'decoder']
        if not inside or not isinstance(model, DetectionTransformer):
            return
        if tap.whole:
            return
        if 'decoder' in inside:
            raise PlanError(
                f'{where} ({tap}): the decoder yields its layers stacked',
                expected='one layer of it, or all',
                actual='decoder',
                fix="'decoder.layers.*'",
            )
        layers = not tap.inputs and all(map(_LAYER.fullmatch, inside))
        if of_student and hasattr(model, 'dn_query_generator') and not layers:
            raise PlanError(
                f'{where} ({tap}): the decoder of {type(model).__name__} has denoising'
                ' queries too in training, which the teacher has not',
                expected='whole layers of the decoder, whose other queries are read, or'
                ' what is before it',
                actual=', '.join(inside),
                fix="'decoder.layers.*'",
            )

    @classmethod
    def layout_at(
        cls, model: nn.Module, tap: Tap, of_student: bool
    ) -> Callable[[Any], list[Level] | None] | None:
        """Read decoders' calls by name; leave out denoising queries of layers."""
        if not isinstance(model, DetectionTransformer):
            return None
        if tap.whole and tap.paths == ('decoder',):
            return call_layout(model)
        denoises = of_student and hasattr(model, 'dn_query_generator')
        layers = not tap.inputs and all(map(_LAYER.fullmatch, tap.paths))
        return partial(_own_queries, model) if denoises and layers else None

    @classmethod
    def run(cls, model: Any, head: Any, features: Any, samples: Sequence[Any]) -> None:
        """Run encoder, decoder and head on the features."""
        given = model.forward_transformer(features, samples)
        known = arguments_of(type(head), 'forward')
        head(**{key: value for key, value in given.items() if key in known})

    def level_strides(self, head: Any) -> tuple[int | None, ...]:
        """Return one None: layers are no levels of other strides."""
        return (None,)

    def read(self, head: Any, levels: Sequence[Level], **beside: Any) -> HeadOutput:
        """Read one forward.

        Args:
            head: The head as it is now.
            levels: Class logits (N, Q, K) and boxes (N, Q, 4) of each decoder layer.
            **beside: Not used.

        Returns:
            HeadOutput: Scores, boxes and earlier layers, in float32.
        """
        count = levels[0][0].shape[1]
        self.queries = self.queries or count  # the plan's run has no others
        first = self._first(head, count)
        kept = slice(first, first + self.queries)
        layers = [
            HeadOutput(
                full_precision(scores[:, kept]),
                _corners(boxes[:, kept]) if self.decodes else None,
            )
            for scores, boxes in levels
        ]
        return layers[-1]._replace(earlier=tuple(layers[:-1]))

    def _first(self, head: Any, count: int) -> int:
        """Return the index of the first query that is no denoising query."""
        if count == self.queries:  # in eval mode, and of shared queries
            return 0
        last = count - self.queries
        if isinstance(head, DDQDETRHead) and head.training:
            # The number of denoising queries there may be of a later run, of images
            # without labels; that of dense queries is the same in all.
            return last - head.cache_dict['num_dense_queries']
        return last

    def prove(
        self, model: Any, head: Any, features: Sequence[Tensor], where: str
    ) -> ReadTwice:
        """Raise unless scores and boxes are those of the head's own predictions."""
        return prove_queries(self, model, head, features, where)

    def check_comparable(
        self, student: TappedHead, teacher: TappedHead, where: str
    ) -> None:
        """Raise unless both heads have the same classes. Queries may differ in number.

        Raises:
            TeacherClassesError: They have another number of classes.
        """
        ours, theirs = (side.levels[-1][0].shape[-1] for side in (student, teacher))
        if ours != theirs and not teacher.mapped:
            raise TeacherClassesError(
                f'{where}: student and teacher have different numbers of classes',
                expected=f'{theirs} class outputs, as the teacher',
                actual=f'{ours} in the student',
                fix='bbox_head=dict(num_classes=...) of both, as the data has them',
            )


def _own_queries(model: Any, value: Tensor) -> list[Level]:
    """Return what a decoder layer yields (N, Q, C), without denoising queries.

    Args:
        model: A DINO or DDQ. In training denoising queries come first; dense queries,
            which DDQ has, come last.
        value: What the layer yielded.
    """
    first = value.shape[1] - model.num_queries
    if isinstance(model.bbox_head, DDQDETRHead):
        first = model.cache_dict['dis_query_info'][0]
    return [value[:, first : first + model.num_queries]]


def _corners(boxes: Tensor) -> Tensor:
    """Return boxes (..., 4) of centre and size as x1, y1, x2, y2, in float32."""
    return bbox_cxcywh_to_xyxy(full_precision(boxes))
