"""Matches the classes of a teacher with those of the data, where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...class_maps.class_map import ClassMap
from ...class_maps.counting import class_count
from ...class_maps.matching import as_named, similar_name
from ...class_maps.resolving import ALL_OTHERS, resolve_class_maps
from ...config import DistillConfig
from ...errors import ConfigError, TeacherClassesError
from ...plan.advice.pair import Pair
from ...plan.recipes import TEACHER

OPTION = '--class-map'


def with_class_map(
    pair: Pair,
    ours: Sequence[str],
    theirs: Sequence[str] | None,
    given: Mapping[str, Any],
) -> tuple[Pair, ClassMap | None]:
    """Return a pair with the class map that it needs, and what it means.

    Args:
        pair: Student and teacher.
        ours: Names of the classes of the data; empty where they are not known.
        theirs: Those of the teacher; None for one that is trained on the data first.
        given: What the user says: names or indices of the teacher's classes, by the
            student's name. All others are matched by name.

    Raises:
        ConfigError: A class that is given does not exist, or names are not known.
        TeacherClassesError: No class is in common.
    """
    if theirs is None:
        if given:
            raise ConfigError(
                f'{OPTION}: the teacher is trained on the classes of the data first',
                fix=f'without {OPTION}',
            )
        return pair, None
    others = bool(ours and theirs and tuple(ours) != tuple(theirs))
    counts = class_count(pair.student), class_count(pair.teacher)
    if not given and not others and counts[0] == counts[1]:
        return pair, None
    given = {name: as_named(value, theirs) for name, value in given.items()}
    rest = {ALL_OTHERS: 'auto'} if theirs else {}
    pair = replace(
        pair,
        class_map={**given, **rest} if given else 'auto',
        classes=tuple(ours),
        teacher_classes=tuple(theirs),
    )
    return pair, _resolved(pair)


def _resolved(pair: Pair) -> ClassMap:
    config = DistillConfig.parse(pair.add_to({}, TEACHER))
    try:
        maps = resolve_class_maps(config, pair.student, {TEACHER: _Model(pair)})
    except TeacherClassesError as error:
        error.fix = _way_out(pair)
        raise
    return maps[TEACHER]


class _Model:
    def __init__(self, pair: Pair) -> None:
        self.model = pair.teacher


def _way_out(pair: Pair) -> str:
    """Return what to write where no class is in common."""
    similar = [
        f"'{name}={found}'"
        for name in pair.classes
        if (found := similar_name(name, pair.teacher_classes))
    ]
    if similar:
        return f'{OPTION} {" ".join(similar)}, if they are the same'
    return (
        f"{OPTION} 'OURS=THEIRS', a class of the data and the teacher's name for it;"
        ' or another teacher'
    )
