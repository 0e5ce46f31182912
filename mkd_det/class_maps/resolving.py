"""Makes the class map of a teacher from what its config says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..config import DistillConfig
from ..errors import ConfigError, TeacherClassesError, is_integer, nearest_names
from ..parsing import SCOPE_KEY
from .class_map import Classes, ClassMap
from .counting import class_count
from .matching import match_names, similar_name

# In a map by hand: all classes that it does not name are matched by name.
ALL_OTHERS = '*'
BY_HAND = 'by hand'
_WITHOUT_MAP = (
    'terms on features alone, without class_map, and default_hooks=dict('
    "teacher_check=dict(type='TeacherCheckHook', check_classes=False))"
)


def resolve_class_maps(
    config: DistillConfig, student: nn.Module, teachers: Mapping[str, Any]
) -> dict[str, ClassMap]:
    """Make the class maps of all teachers that have one.

    Args:
        config: The config of the distillation.
        student: The student.
        teachers: The teachers by name, each with its `model`.

    Raises:
        MkdError: See `resolve_class_map`; or names and heads do not fit.
    """
    maps = {}
    for name, teacher in config.teachers.items():
        if teacher.class_map is None:
            continue
        ours = _classes_of(student, config.classes, 'classes', 'the student')
        theirs = _classes_of(
            teachers[name].model,
            teacher.classes,
            f'teachers.{name}.classes',
            f'teacher {name!r}',
        )
        maps[name] = resolve_class_map(name, teacher.class_map, ours, theirs)
    return maps


def _classes_of(
    model: nn.Module, names: tuple[str, ...], key: str, whose: str
) -> Classes:
    """Return the classes of a model.

    Raises:
        ConfigError: Names are given twice, their number is not that of the head, or
            neither is known.
    """
    count = class_count(model)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(
            f'{key}: a class is listed twice',
            expected='a name of its own for each class',
            actual=', '.join(repeated),
        )
    if count is None and not names:
        raise ConfigError(
            f'class_map: how many classes {whose} has is not known:'
            f' {type(model).__name__} has no `num_classes`',
            fix=f"model.{key}=('...', ...), names in the order of the labels",
        )
    if names and count not in (None, len(names)):
        raise TeacherClassesError(
            f'{key}: {len(names)} names, but {whose} has {count} classes',
            expected=f'{count} names, as num_classes of its head',
            actual=', '.join(names[:8]) + (', ...' if len(names) > 8 else ''),
            fix=f"model.{key}=('...', ...), {count} names in the order of the labels;"
            ' or the num_classes that the names need',
        )
    return Classes(len(names) or int(count or 0), names)


def resolve_class_map(
    teacher: str, given: Any, ours: Classes, theirs: Classes
) -> ClassMap:
    """Make the class map of a teacher.

    Args:
        teacher: Name of the teacher.
        given: Its `class_map`: 'auto', a dict by class of the student, or a list with
            an entry for each class of the student.
        ours: The student's classes.
        theirs: The teacher's classes.

    Raises:
        ConfigError: The map names what is not there, or names are needed and not known.
        TeacherClassesError: No class is in common.
    """
    resolver = _Resolver(teacher, ours, theirs)
    if given == 'auto':
        resolver.match_all()
    elif isinstance(given, Mapping):
        resolver.take_dict({k: v for k, v in given.items() if k != SCOPE_KEY})
    else:
        resolver.take_list(given)
    return resolver.result(given)


class _Resolver:
    def __init__(self, teacher: str, ours: Classes, theirs: Classes) -> None:
        self.teacher, self.ours, self.theirs = teacher, ours, theirs
        self.where = f'teachers.{teacher}.class_map'
        self.found: dict[int, tuple[int, ...]] = {}
        self.reasons: dict[int, str] = {}

    # -- forms -------------------------------------------------------------------

    def match_all(self, but: Sequence[int] = ()) -> None:
        """Match by name all classes of the student but those given."""
        self._need_names('student')
        self._need_names('teacher')
        for index, (other, how) in match_names(
            self.ours.names, self.theirs.names
        ).items():
            taken = any(other in group for group in self.found.values())
            if index not in but and not taken:
                self.found[index], self.reasons[index] = (other,), how

    def take_dict(self, given: Mapping[str, Any]) -> None:
        """Take the pairs of a dict, by name of the student's class."""
        self._need_names('student')
        named: list[int] = []
        for name, value in given.items():
            if name == ALL_OTHERS and name not in self.ours.names:
                if value != 'auto':
                    raise ConfigError(
                        f'{self.where}: {ALL_OTHERS!r} stands for all other classes',
                        expected="'auto': they are matched by name",
                        actual=repr(value),
                        fix=f"{{{ALL_OTHERS!r}: 'auto', ...}}",
                    )
                continue
            if name not in self.ours.names:
                raise self._unknown_student(name, given)
            index = self.ours.names.index(name)
            named.append(index)
            self._take(index, value)
        if ALL_OTHERS in given and ALL_OTHERS not in self.ours.names:
            self.match_all(but=named)

    def take_list(self, given: Sequence[Any]) -> None:
        """Take a list with an entry for each class of the student."""
        if len(given) != self.ours.count:
            raise ConfigError(
                f'{self.where}: needs an entry for each class of the student, in the'
                ' order of its labels',
                expected=f'{self.ours.count} entries: '
                + ', '.join(map(self.ours.name, range(min(self.ours.count, 8)))),
                actual=f'{len(given)} entries',
                fix='a name or an index of a class of the teacher, or None, for each',
            )
        for index, value in enumerate(given):
            self._take(index, value)

    def _take(self, index: int, value: Any) -> None:
        several = value if isinstance(value, (list, tuple)) else [value]
        group = tuple(self._index_of(one) for one in several if one is not None)
        if group:
            self.found[index], self.reasons[index] = group, BY_HAND

    def _index_of(self, value: Any) -> int:
        """Return the index of a teacher's class, given by name or index."""
        count = self.theirs.count
        if is_integer(value):
            if not 0 <= value < count:
                raise ConfigError(
                    f'{self.where}: teacher {self.teacher!r} has no class {value}',
                    expected=f'an index from 0 to {count - 1}, or a name',
                    actual=value,
                    fix=f'{count - 1}, the last class, or one below it',
                )
            return int(value)
        if not isinstance(value, str):
            raise ConfigError(
                f'{self.where}: a class of the teacher is given by its name or index',
                expected='a name, an index, a list of them, or None',
                actual=repr(value),
                fix="class_map='auto', or {'car': 'automobile', 'dog': 16}",
            )
        self._need_names('teacher')
        if value not in self.theirs.names:
            names = self.theirs.names
            nearest = similar_name(value, names)
            raise ConfigError(
                f'{self.where}: teacher {self.teacher!r} knows no class {value!r}',
                actual=repr(value),
                available=nearest_names(value, names, limit=12),
                fix=f'{nearest!r}' if nearest else 'one of these, its index, or None',
            )
        return self.theirs.names.index(value)

    # -- what is wrong -------------------------------------------------------------

    def _need_names(self, whose: str) -> None:
        """Raise ConfigError where the names of classes are needed and not known."""
        classes = self.ours if whose == 'student' else self.theirs
        if classes.names:
            return
        if whose == 'student':
            key = 'classes'
            source = 'the training data (mkd-det commands read them there)'
        else:
            key = f'teachers.{self.teacher}.classes'
            source = 'its checkpoint or the data of its config'
        raise ConfigError(
            f"{self.where}: needs the names of the {whose}'s classes, which are not"
            ' known',
            expected=f'names from {source}',
            actual='none',
            fix=f"model.{key}=('...', ...), {classes.count} names in the order of the"
            ' labels',
        )

    def _unknown_student(self, name: str, given: Mapping[str, Any]) -> ConfigError:
        names = self.ours.names
        fix = ''
        values = [value for value in given.values() if isinstance(value, str)]
        if name in self.theirs.names and values and set(values) <= set(names):
            turned = {v: k for k, v in given.items() if isinstance(v, str)}
            fix = f'the other way round: class_map={turned!r}'
        elif nearest := similar_name(name, names):
            fix = f'{{{nearest!r}: {given[name]!r}}}'
        return ConfigError(
            f'{self.where}: the student has no class {name!r}',
            expected="{the student's class: the teacher's class}",
            actual=repr(name),
            available=nearest_names(name, names, limit=12),
            fix=fix or 'one of these',
        )

    def _check_used_once(self) -> None:
        """Raise ConfigError where one teacher's class stands for two of the student.

        Its probability does not say which of them it is.
        """
        owner: dict[int, int] = {}
        for index, group in self.found.items():
            if len(set(group)) < len(group):
                raise ConfigError(
                    f'{self.where}: a class of the teacher is listed twice for'
                    f' {self.ours.name(index)!r}',
                    actual=', '.join(map(self.theirs.name, group)),
                )
            for one in group:
                if one in owner:
                    first, second = (
                        self.ours.name(i) for i in sorted((owner[one], index))
                    )
                    raise ConfigError(
                        f'{self.where}: {self.theirs.name(one)!r} of the teacher'
                        f' stands for two classes, {first!r} and {second!r}',
                        expected='each class of the teacher once: its probability does'
                        ' not say which of the two an object is',
                        actual=f'{first!r} and {second!r}',
                        fix=f'{second!r}: None, or leave it out',
                    )
                owner[one] = index

    def result(self, given: Any) -> ClassMap:
        """Return the map.

        Raises:
            TeacherClassesError: It is empty.
        """
        self._check_used_once()
        if not self.found:
            raise self._empty(given)
        indices = range(self.ours.count)
        return ClassMap(
            self.teacher,
            self.ours,
            self.theirs,
            tuple(self.found.get(index, ()) for index in indices),
            tuple(self.reasons.get(index, '') for index in indices),
        )

    def _empty(self, given: Any) -> TeacherClassesError:
        pairs = {
            name: similar
            for name in self.ours.names
            if (similar := similar_name(name, self.theirs.names))
        }
        fix = f'class_map={pairs!r}, if they are the same\n' if pairs else ''
        return TeacherClassesError(
            f'teacher {self.teacher!r} and the student have no class in common'
            + (', by name' if given == 'auto' else ''),
            expected=f'classes of the student: {_first(self.ours)}; by other names'
            " class_map={the student's class: the teacher's class}",
            actual=f'classes of the teacher: {_first(self.theirs)}',
            fix=fix + 'another teacher; or ' + _WITHOUT_MAP,
        )


def _first(classes: Classes, limit: int = 8) -> str:
    names = list(map(classes.name, range(min(classes.count, limit))))
    return ', '.join(names) + (', ...' if classes.count > limit else '')
