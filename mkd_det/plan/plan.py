"""The plan: the checked result of a distill config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from ..adapters.base import Adapter, AdapterOutput
from ..branches.base import Branch
from ..class_maps.class_map import ClassMap
from ..class_maps.restriction import Restriction
from ..heads.base import HeadReader
from ..heads.ground_truth import confident_boxes
from ..losses.base import PairLoss
from ..probes.base import Probe
from ..structures import GroundTruth, Knowledge, Levels, LevelSpec
from ..taps import Tap, TeacherReads
from .matching import LevelMatch, pick
from .refs import SIDES, Ref


class HasModel(Protocol):
    """What the plan needs of a teacher."""

    @property
    def model(self) -> nn.Module:
        """The frozen model."""


@dataclass
class AdapterNode:
    """An adapter and what it reads.

    Args:
        name: Its name in the config.
        refs: What it reads, by side.
        adapter: The adapter.
        match: Which levels meet.
    """

    name: str
    refs: dict[str, Ref]
    adapter: Adapter
    match: LevelMatch = LevelMatch()

    def __call__(self, sides: Mapping[str, Levels], **known: Any) -> AdapterOutput:
        """Run the adapter on the levels that were read, by side.

        Args:
            sides: The levels.
            **known: What is known of the images, for probes that take it.
        """
        levels = (pick(sides[s], self.match.of(s)) for s in SIDES)
        taken = {name: known[name] for name in self.takes if name in known}
        return self.adapter(*levels, **taken)

    @property
    def takes(self) -> tuple[str, ...]:
        """What a probe takes besides levels, see `Probe`."""
        return self.adapter.takes if isinstance(self.adapter, Probe) else ()

    def __str__(self) -> str:
        return _in_words(self.adapter, self.refs, self.match)


@dataclass
class Term:
    """A loss and what it reads.

    Args:
        name: Its name in the config.
        refs: What it reads, by side: 'student', 'teacher' and the names of
            `PairLoss.also`.
        loss: The loss.
        readers: Who reads the heads, by side; empty for features and plain logits.
        beside: Further taps that a reader needs, by side and name.
        match: Which levels meet. What else the loss reads of a teacher has the levels
            of the teacher's side.
        classes: What restricts both sides to the classes that they share; None where
            they have the same, or none are compared.
        parts: Names of the parts of the loss, as far as a probe shows them; '' for a
            loss without parts.
        tried: Their values there, on the image of the probe.
    """

    name: str
    refs: dict[str, Ref]
    loss: PairLoss
    readers: dict[str, HeadReader] = field(default_factory=dict)
    beside: dict[str, dict[str, Ref]] = field(default_factory=dict)
    match: LevelMatch = LevelMatch()
    classes: Restriction | None = None
    parts: tuple[str, ...] = ('',)
    tried: dict[str, float] = field(default_factory=dict)

    def kept(self, side: str) -> tuple[int, ...] | None:
        """Return the indices of the levels that are read of a side; None for all."""
        return self.match.of(side if side in SIDES else self.loss.also[side])

    def __call__(self, sides: Mapping[str, Any], **more: Any) -> Any:
        """Compute the loss of what was read, by side.

        Args:
            sides: Levels or head outputs, as `Plan.read` returns them.
            **more: `mask` and `truth`, see `PairLoss.forward`.
        """
        if self.classes is not None:
            sides = self.classes(sides)
            if self.loss.truth == 'labels':
                more['truth'] = self.classes.truth(more['truth'])
        also = {side: levels for side, levels in sides.items() if side not in SIDES}
        return self.loss(sides['student'], sides['teacher'], **also, **more)

    def __str__(self) -> str:
        return _in_words(self.loss, self.refs, self.match)


@dataclass
class TeacherTruth:
    """Boxes of a teacher, in place of ground truth.

    Args:
        ref: The teacher's head.
        reader: Who reads it.
        beside: Further taps that the reader needs, by name.
    """

    ref: Ref
    reader: HeadReader
    beside: dict[str, Ref]


@dataclass
class Plan:
    """The checked result of a distill config.

    Args:
        taps: Taps by owner ('student' or a teacher) and name. Taps of branches stand
            under the student, as `<branch>.<key>`.
        specs: Shapes of the levels, by owner and name; adapters included.
        adapters: The adapters that some term reads.
        branches: The branches, attached to the student.
        terms: The terms whose weight is not zero.
        reads: What is read of each teacher, for the bank.
        off: Names of the parts of the config that are switched off.
        speeds: How each teacher is to run, in words.
        notes: What a person should know of the plan, a sentence each.
        class_maps: The class maps of those teachers that have one.
        truth: The teacher's head whose boxes serve images without labels.
    """

    taps: dict[str, dict[str, Tap]] = field(default_factory=dict)
    specs: dict[tuple[str, str], tuple[LevelSpec, ...]] = field(default_factory=dict)
    adapters: dict[str, AdapterNode] = field(default_factory=dict)
    branches: dict[str, Branch] = field(default_factory=dict)
    terms: dict[str, Term] = field(default_factory=dict)
    reads: dict[str, TeacherReads] = field(default_factory=dict)
    off: list[str] = field(default_factory=list)
    speeds: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    class_maps: dict[str, ClassMap] = field(default_factory=dict)
    truth: TeacherTruth | None = None

    def teachers_of(self, part: Term | AdapterNode) -> set[str]:
        """Return the names of the teachers that a term or adapter reads."""
        names: set[str] = set()
        for owner in (ref.owner for ref in part.refs.values()):
            if owner in self.adapters:
                names |= self.teachers_of(self.adapters[owner])
            elif owner in self.taps and owner != 'student':
                names.add(owner)
        return names

    def teacher_of(self, part: Term | AdapterNode) -> str:
        """Return the teacher on the teacher's side of a term or adapter."""
        owner = part.refs['teacher'].owner
        adapter = self.adapters.get(owner)
        return self.teacher_of(adapter) if adapter else owner

    def is_aligned(self, refs: Mapping[str, Ref]) -> bool:
        """Return whether one probe yields all of these, row by row.

        Args:
            refs: What a term reads, by side.
        """
        owners = {ref.owner for ref in refs.values()}
        nodes = [self.adapters.get(owner) for owner in owners]
        probes = [n.adapter for n in nodes if n and isinstance(n.adapter, Probe)]
        return len(owners) == 1 and any(probe.aligned for probe in probes)

    def adapters_read_by(self, terms: Mapping[str, Term]) -> dict[str, AdapterNode]:
        """Return the adapters that `terms` read."""
        owners = {ref.owner for term in terms.values() for ref in term.refs.values()}
        return {name: node for name, node in self.adapters.items() if name in owners}

    def levels_at(
        self, known: Mapping[str, Mapping[str, Knowledge]], ref: Ref
    ) -> Levels:
        """Return the levels that a reference names.

        Args:
            known: What is known in this step, by owner and key.
            ref: The reference.
        """
        if ref.owner in known:
            return known[ref.owner][ref.key].levels
        return known['student'][str(ref)].levels  # of a branch

    def read(
        self,
        term: Term,
        known: Mapping[str, Mapping[str, Knowledge]],
        student: nn.Module,
        teachers: Mapping[str, HasModel],
    ) -> dict[str, Any]:
        """Return what a term reads, by side; heads as their `HeadOutput`.

        Args:
            term: The term.
            known: What is known in this step, by owner and key.
            student: The student.
            teachers: The teachers by name.
        """
        sides: dict[str, Any] = {}
        for side, ref in term.refs.items():
            sides[side] = self.levels_at(known, ref)
            if side in term.readers:
                head = self.head_at(ref, student, teachers)
                beside = {
                    name: self.levels_at(known, other)
                    for name, other in term.beside.get(side, {}).items()
                }
                sides[side] = (term.readers[side].read(head, sides[side], **beside),)
            else:
                sides[side] = pick(sides[side], term.kept(side))
        return sides

    def teacher_truth(
        self,
        known: Mapping[str, Mapping[str, Knowledge]],
        size: tuple[int, int],
        teachers: Mapping[str, HasModel],
        score_thr: float,
    ) -> GroundTruth:
        """Return the confident boxes of a teacher in place of the ground truth.

        They are of the student's classes: a map leaves out objects of others.

        Args:
            known: What is known in this step, by owner and key.
            size: (H, W) of the images.
            teachers: The teachers by name.
            score_thr: Least score of a box.
        """
        assert self.truth is not None
        ref, reader = self.truth.ref, self.truth.reader
        beside = {k: self.levels_at(known, r) for k, r in self.truth.beside.items()}
        head = self.head_at(ref, nn.Module(), teachers)
        output = reader.read(head, self.levels_at(known, ref), **beside)
        classes = self.class_maps.get(ref.owner)
        if classes is None or classes.changes_nothing:
            return confident_boxes(output, reader.activation, score_thr, size)
        shared = Restriction.of_teacher(classes, reader.activation)
        output = shared.of_side('teacher', output)
        truth = confident_boxes(output, reader.activation, score_thr, size)
        return shared.labels_of_student(truth)

    def head_at(
        self, ref: Ref, student: nn.Module, teachers: Mapping[str, HasModel]
    ) -> nn.Module | None:
        """Return the module whose output a reference names, which may be a head.

        Args:
            ref: The reference.
            student: The student.
            teachers: The teachers by name.

        Returns:
            The module that a tap names; of a probe the head that it runs; None for
            adapters and branches.
        """
        node = self.adapters.get(ref.owner)
        if node is not None:
            probe = node.adapter if isinstance(node.adapter, Probe) else None
            return probe.head_of(ref.key) if probe else None
        if ref.owner in self.branches:
            return None
        model = student if ref.owner == 'student' else teachers[ref.owner].model
        return self.taps[ref.owner][ref.key].resolve(model)[0][1]

    def describe(self) -> dict[str, str]:
        """Return the plan in words, an entry for each part; see `table.describe`."""
        from .table import describe

        return describe(self)

    def table(self, width: int = 110) -> str:
        """Return the plan as a table for people; see `table.render`."""
        from .table import render

        return render(self, width)


def _in_words(module: nn.Module, refs: Mapping[str, Ref], match: LevelMatch) -> str:
    student, *rest = map(str, refs.values())
    words = f'{type(module).__name__}: {student} <- {", ".join(rest)}'
    return f'{words} ({match.words})' if match.words else words
