"""What restricts the two sides of a term to the classes that they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ...class_maps.class_map import ClassMap
from ...class_maps.restriction import Restriction
from ...errors import PlanError, TeacherClassesError
from ...probes.base import Probe
from ...structures import HeadOutput
from ..plan import Plan, Term
from ..refs import SIDES


def compares_classes(term: Term) -> bool:
    """Return whether both sides of a term have a column for each class."""
    return term.loss.reads == 'outputs' or term.loss.of_classes


def is_mapped(plan: Plan, term: Term) -> bool:
    """Return whether a map says which classes of both sides of a term are the same.

    Raises:
        PlanError: The teachers of the term have different maps.
    """
    classes = _map_of(plan, term)
    changes = classes is not None and not classes.changes_nothing
    return changes and compares_classes(term)


def find_restriction(
    plan: Plan, term: Term, sides: Mapping[str, Any]
) -> Restriction | None:
    """Return what restricts a term to the shared classes; None for nothing.

    Args:
        plan: The plan.
        term: The term.
        sides: What it reads in the plan's run, by side.

    Raises:
        PlanError: What a side yields are not the classes of its model.
        TeacherClassesError: A softmax over the shared classes would say nothing.
    """
    classes = _map_of(plan, term)
    if classes is None or not is_mapped(plan, term):
        return None
    logits = {side: levels[0] for side, levels in sides.items() if _is_logits(levels)}
    widths = {side: _width(level) for side, level in logits.items()}
    heads = [reader.activation == 'softmax' for reader in term.readers.values()]
    if heads and {widths[side] - heads[0] for side in SIDES} == {1}:
        return None  # of proposals, which have no classes
    whose: dict[str, str] = {}
    backgrounds: dict[str, bool] = {}
    for side, width in widths.items():
        owner = _owner(plan, term, side, classes)
        count = classes.ours.count if owner == 'student' else classes.theirs.count
        if width == 1 != count and not heads:
            continue  # one mask for all classes
        if width not in (count, count + 1) or (heads and width != count + heads[0]):
            raise _other_columns(term, side, width, owner, count)
        whose[side], backgrounds[side] = owner, width == count + 1
    if not whose:
        return None
    if len(set(backgrounds.values())) > 1:
        raise PlanError(
            f'term {term.name!r}: one side has a background, another has none',
            expected='both with a background, or both without',
            actual=', '.join(f'{term.refs[s]}: {widths[s]} columns' for s in widths),
            fix='taps at heads of one kind',
        )
    background = backgrounds[next(iter(whose))]
    exclusive = heads[0] if heads else _is_softmax(term)
    says_nothing = exclusive and not background and len(classes.shared) == 1
    if says_nothing and 'labels' not in term.loss.also:
        raise TeacherClassesError(
            f'term {term.name!r}: the student and teacher {classes.teacher!r} share one'
            ' class, and a softmax over one class is always 1',
            expected='at least two classes in common',
            actual=', '.join(classes.shared_names),
            fix='a loss on features: FeatureKD, AttentionKD',
        )
    return Restriction(classes, whose, background, exclusive)


def check_same_classes(where: str, term: Term, sides: Mapping[str, Any]) -> None:
    """Raise unless plain logits of both sides have equally many classes.

    Readers compare heads.

    Args:
        where: Name of the term, for messages.
        term: The term.
        sides: What it reads in the plan's run, by side.

    Raises:
        TeacherClassesError: They have not.
    """
    demands = term.loss.reads == 'outputs' or 'same_channels' in term.loss.demands
    if term.readers or not (compares_classes(term) and demands):
        return
    if term.classes is not None:
        sides = term.classes(sides)
    if len({len(sides[side]) for side in SIDES}) > 1:
        return  # not the same kind of thing; `check_demands` says so
    for ours, theirs in zip(*(sides[side] for side in SIDES), strict=True):
        widths = _width(ours), _width(theirs)
        if widths[0] != widths[1]:
            raise TeacherClassesError(
                f'{where}: student and teacher have different numbers of classes',
                expected=f'{widths[1]} class outputs, as the teacher',
                actual=f'{widths[0]} in the student',
                fix='num_classes=... of both heads, as the data has them',
            )


@contextmanager
def advise_class_map(plan: Plan, term: Term) -> Iterator[None]:
    """Name the class map in errors raised inside about numbers of classes."""
    try:
        yield
    except TeacherClassesError as error:
        name = plan.teacher_of(term)
        if name not in plan.class_maps:
            error.fix = (
                f"teachers=dict({name}=dict(class_map='auto')), if it is a teacher of"
                f' other classes: it teaches those that both know\n{error.fix}'
            )
        raise


def _map_of(plan: Plan, term: Term) -> ClassMap | None:
    """Return the class map of the teachers that a term reads."""
    names = sorted(plan.teachers_of(term))
    maps = [plan.class_maps.get(name) for name in names]
    if len({None if m is None else m.sources for m in maps}) > 1:
        raise PlanError(
            f'term {term.name!r} reads teachers with different class maps',
            expected='one map for all of them',
            actual='; '.join(
                f'{name}: {"no map" if m is None else m.summary()}'
                for name, m in zip(names, maps)
            ),
            fix='the same class_map for these teachers, or a term for each of them',
        )
    return maps[0] if maps else None


def _owner(plan: Plan, term: Term, side: str, classes: ClassMap) -> str:
    """Return whose classes a side has, 'student' or 'teacher'."""
    ref = term.refs[side]
    node = plan.adapters.get(ref.owner)
    if node is None:
        is_ours = ref.owner == 'student' or ref.owner in plan.branches
        return 'student' if is_ours else 'teacher'
    if ref.key == 'teacher':
        return 'teacher'
    if isinstance(node.adapter, Probe):
        heads = [node.adapter.head_of(side) for side in SIDES]
        # Of CrossHead both are the teacher's head, on features of each side.
        return 'teacher' if heads[0] is heads[1] else 'student'
    # An adapter for class logits leads from the student's classes to the teacher's.
    channels = plan.specs[ref.owner, ref.key][0].channels
    theirs = (classes.theirs.count, classes.theirs.count + 1)
    return 'teacher' if channels in theirs else 'student'


def _is_logits(levels: Any) -> bool:
    """Return whether levels have a column for each class; labels have none."""
    return isinstance(levels[0], HeadOutput) or (
        isinstance(levels[0], Tensor) and levels[0].is_floating_point()
    )


def _width(level: Any) -> int:
    if isinstance(level, HeadOutput):
        return level.scores.shape[-1]
    return level.shape[2] if level.dim() == 3 else level.shape[1]


def _is_softmax(term: Term) -> bool:
    """Return whether a loss of plain logits takes them for exclusive classes."""
    kind = getattr(term.loss, 'classes', None)
    return kind != 'sigmoid' and not getattr(term.loss, 'use_sigmoid', False)


def _other_columns(
    term: Term, side: str, width: int, owner: str, count: int
) -> TeacherClassesError:
    whose = 'the student' if owner == 'student' else 'the teacher'
    return TeacherClassesError(
        f'term {term.name!r}: the columns of {term.refs[side]} are not the classes of'
        f' {whose}, which the class map is for',
        expected=f'{count} columns, or {count + 1} with a background',
        actual=f'{width} columns',
        fix="a tap at the whole head: taps=dict(head='bbox_head')",
    )
