"""Runs the decoders of student and teacher on the same queries (KD-DETR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from ..adapters.base import AdapterOutput, FrozenModule
from ..errors import ConfigError, HeadKindError, TapNotFoundError
from ..heads.decoding import (
    Queries,
    knows_decoder,
    queries_of,
    query_parts,
    run_decoder,
)
from ..registry import ADAPTERS
from ..structures import LevelSpec
from .base import Probe, StudentModule

QuerySampling = Literal['specific', 'general', 'both']

# Sides of sampled boxes, in units of the image's sides.
_SMALLEST, _LARGEST = 1 / 32, 1.0
# What to do where queries cannot be shared: with classes of one kind, and otherwise.
_MATCHED = (
    "taps=dict(queries='bbox_head'), and type='QueryKD', student='queries',"
    " teacher='t.queries' in the term: queries are matched then, without this adapter"
)
_FEATURES = "FeatureKD with taps=dict(fpn='neck')"


@ADAPTERS.register_module()
class SharedQueries(Probe):
    """Runs the decoders of student and teacher on the same queries (KD-DETR).

    Wang et al.: "KD-DETR: Knowledge Distillation for Detection Transformer with
    Consistent Distillation Points Sampling", CVPR 2024, arXiv 2211.08071: the queries
    of two DETRs ask different things, so their answers cannot be compared. Here both
    decoders get the same queries beside those of the student's own training, each on
    its own encoder memory, and predictions correspond one to one:

        taps=dict(decoder='decoder:call')
        adapters=dict(shared=dict(
            type='SharedQueries', student='decoder', teacher='t.decoder'))
        terms=dict(loss_query=dict(
            type='QueryKD', student='shared.student', teacher='shared.teacher',
            layers='all', negatives=0.0))

    Queries are 'specific' (the teacher's own, which look at objects), 'general' (boxes
    anywhere in the image, drawn anew in each step), or 'both'. The paper begins with
    general ones and adds specific ones. General queries need a decoder that starts from
    boxes: DAB-DETR, two-stage Deformable DETR, DINO, DDQ. Where queries have a content,
    general ones get that of queries of the teacher, drawn at random.

    Every part that the student's queries have, the teacher's must have too. Learned
    contents and positions of another width pass a linear layer that is trained. A step
    costs one more pass of both decoders.

    Args:
        student: Shape of what the student's tap yields, a call of the decoder.
        teacher: Shape of what the teacher's tap yields.
        sampling: Which queries: 'specific', 'general' or 'both'.
        count: Number of general queries in an image; None for as many as the teacher
            has.

    Shape:
        - student, teacher: one level, the call of the decoder; see `heads.decoding`
        - output: a level for each decoder layer: class logits (N, Q, K) and boxes
          (N, Q, 4)
    """

    yields: ClassVar[tuple[str, ...]] = ('student', 'teacher')
    reads_calls: ClassVar[tuple[str, ...]] = ('student', 'teacher')
    aligned: ClassVar[bool] = True

    def __init__(
        self,
        student: Sequence[LevelSpec],
        teacher: Sequence[LevelSpec],
        sampling: QuerySampling = 'specific',
        count: int | None = None,
    ) -> None:
        super().__init__(student, teacher)
        if sampling not in get_args(QuerySampling):
            raise ConfigError(
                'SharedQueries: unknown sampling',
                actual=sampling,
                available=get_args(QuerySampling),
            )
        if count is not None and not (isinstance(count, int) and count >= 1):
            raise ConfigError(
                'SharedQueries: count must be a whole number >= 1, or None',
                actual=count,
            )
        self.sampling, self.count = sampling, count
        # For learned parts of another width; the plan fills it in.
        self.widths = nn.ModuleDict()
        self._student: StudentModule | None = None
        self._teacher: FrozenModule | None = None

    def head_of(self, side: str) -> nn.Module | None:
        """Return the head of the student or of the teacher."""
        model = self._student if side == 'student' else self._teacher
        return None if model is None else _head(model.module)

    def bind(self, teacher: nn.Module, tap: Any, where: str) -> None:
        """Find the teacher's decoder."""
        _check_model(teacher, tap, f'{where}, teacher')
        self._teacher = FrozenModule(teacher)
        if self.sampling != 'specific' and 'boxes' not in query_parts(teacher):
            raise ConfigError(
                f'{where}: queries of {type(teacher).__name__} do not start from boxes,'
                ' and cannot be sampled',
                expected='DAB-DETR, two-stage Deformable DETR, DINO or DDQ',
                actual=f'sampling={self.sampling!r}',
                fix="sampling='specific'",
            )

    def bind_student(self, student: nn.Module, tap: Any, where: str) -> None:
        """Find the student's decoder; add layers where widths differ."""
        _check_model(student, tap, f'{where}, student')
        assert self._teacher is not None
        ours, theirs = query_parts(student), query_parts(self._teacher.module)
        if not ours <= theirs:
            alike = _uses_sigmoid(student) == _uses_sigmoid(self._teacher.module)
            raise HeadKindError(
                f'{where}: queries of {type(self._teacher.module).__name__} cannot be'
                f' those of {type(student).__name__}',
                expected='queries of ' + ' and '.join(sorted(ours)),
                actual=' and '.join(sorted(theirs)) + ' in the teacher',
                fix=_MATCHED if alike else _FEATURES,
            )
        self._student = StudentModule(student)
        mine, other = self.student_specs[0].channels, self.teacher_specs[0].channels
        if mine != other:
            learned = sorted(ours & {'content', 'positions'})
            self.widths.update({part: nn.Linear(other, mine) for part in learned})

    def forward(self, student: Sequence[Any], teacher: Sequence[Any]) -> AdapterOutput:
        """Run both decoders and heads on each set of queries."""
        assert self._student is not None and self._teacher is not None
        ours, theirs = self._student.module, self._teacher.module
        found: list[tuple[list, list]] = []
        for queries in self._draw(queries_of(theirs, teacher[0])):
            with torch.no_grad():
                answers = run_decoder(theirs, teacher[0], queries)
            asked = self._for_student(queries, query_parts(ours))
            found.append((run_decoder(ours, student[0], asked), answers))
        of_student, of_teacher = (_side_by_side(sets) for sets in zip(*found))
        return AdapterOutput(of_student, of_teacher, {})

    def _draw(self, own: Queries) -> list[Queries]:
        """Return the sets of queries of one step; those of a set see each other.

        Args:
            own: The teacher's own queries.
        """
        sets = [] if self.sampling == 'general' else [own]
        if self.sampling != 'specific':
            assert own.places is not None
            images, known = own.places.shape[:2]
            count = self.count or known
            boxes = own.places.new_empty(images, count, 4).uniform_()
            boxes[..., 2:] = _SMALLEST * (_LARGEST / _SMALLEST) ** boxes[..., 2:]
            content = own.content
            if content is not None:
                rows = torch.randint(known, (count,), device=content.device)
                content = content[:, rows]
            sets.append(Queries(content, None, boxes))
        return sets

    def _for_student(self, queries: Queries, parts: frozenset[str]) -> Queries:
        """Return the parts that the student's queries have, in its width."""
        learned = {
            part: self.widths[part](value) if part in self.widths else value
            for part in ('content', 'positions')
            if part in parts and (value := getattr(queries, part)) is not None
        }
        return queries._replace(content=None, positions=None)._replace(**learned)


def _head(model: Any) -> nn.Module:
    return model.bbox_head


def _uses_sigmoid(model: Any) -> bool:
    return model.bbox_head.loss_cls.use_sigmoid


def _check_model(model: nn.Module, tap: Any, where: str) -> None:
    """Raise unless a tap reads the calls of a decoder that can be run again."""
    if not knows_decoder(model):
        raise HeadKindError(
            f'{where}: {type(model).__name__} has no decoder of queries that can be run'
            ' again',
            expected='DETR, Conditional, DAB, Deformable DETR, DINO or DDQ',
            actual=type(model).__name__,
            fix=_FEATURES,
        )
    if not tap.whole or tap.paths != ('decoder',):
        raise TapNotFoundError(
            f'{where}: it needs all that the decoder is called with',
            actual=str(tap),
            fix="taps=dict(decoder='decoder:call')",
        )


def _side_by_side(sets: Sequence[Sequence[tuple[Tensor, ...]]]) -> tuple:
    """Return the layers of several sets of queries, with all their rows."""
    return tuple(
        tuple(torch.cat(parts, 1) for parts in zip(*layers))
        for layers in zip(*sets, strict=True)
    )
