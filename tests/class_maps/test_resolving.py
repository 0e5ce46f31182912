"""Class maps from what a config says; bad ones are typed errors with a fix."""

from __future__ import annotations

from typing import Any

import pytest

from mkd_det.class_maps.class_map import Classes, ClassMap
from mkd_det.class_maps.matching import match_names
from mkd_det.class_maps.resolving import resolve_class_map
from mkd_det.errors import ConfigError, MkdError, TeacherClassesError

OURS = ('dog', 'traffic_light', 'cars')
THEIRS = ('person', 'car', 'Traffic Light', 'dog', 'cat')


def resolve(
    given: Any,
    ours: tuple[str, ...] | int = OURS,
    theirs: tuple[str, ...] | int = THEIRS,
) -> ClassMap:
    sides = [
        Classes(side) if isinstance(side, int) else Classes(len(side), side)
        for side in (ours, theirs)
    ]
    return resolve_class_map('t', given, *sides)


def refused(kind: type[MkdError], given: Any, **more: Any) -> MkdError:
    with pytest.raises(kind) as caught:
        resolve(given, **more)
    assert type(caught.value) is kind
    return caught.value


def test_auto_matches_names_however_they_are_written_and_says_so() -> None:
    classes = resolve('auto')
    assert classes.sources == ((3,), (2,), ())
    assert classes.rows() == [
        ('dog', 'dog', 'same name'),
        ('traffic_light', 'Traffic Light', 'same name, written otherwise'),
        ('cars', '-', "gets nothing from the teacher; perhaps 'car'?"),
    ]
    assert (classes.shared, classes.unknown, classes.foreign) == (
        (0, 1),
        (2,),
        (0, 1, 4),
    )
    assert '2 of 3 classes are taught; cars: nothing from this teacher' in str(classes)


def test_equal_names_come_before_names_that_are_written_otherwise() -> None:
    assert match_names(('A b', 'a_b'), ('a_b', 'A b')) == {
        0: (1, 'same name'),
        1: (0, 'same name'),
    }
    # Which of two is meant is not guessed.
    assert match_names(('ab',), ('a_b', 'A b')) == {}


@pytest.mark.parametrize(
    'given, sources',
    [
        ({'dog': 'dog', 'cars': 'car'}, ((3,), (), (1,))),
        ({'cars': 'car', '*': 'auto'}, ((3,), (2,), (1,))),
        ({'dog': ['dog', 'cat'], 'cars': 1}, ((3, 4), (), (1,))),
        ({'dog': None, '*': 'auto'}, ((), (2,), ())),
        # What is given by hand is not matched a second time by name.
        ({'cars': 'dog', '*': 'auto'}, ((), (2,), (3,))),
        ({'dog': 'dog', '_scope_': 'mmdet'}, ((3,), (), ())),
        ([3, None, 'car'], ((3,), (), (1,))),
    ],
)
def test_maps_by_hand(given: Any, sources: tuple) -> None:
    assert resolve(given).sources == sources


def test_a_list_of_indices_needs_no_names() -> None:
    classes = resolve([4, None], ours=2, theirs=5)
    assert classes.rows() == [
        ('0', '4', 'by hand'),
        ('1', '-', 'gets nothing from the teacher'),
    ]


def test_the_same_classes_need_no_map_and_another_order_does() -> None:
    assert resolve('auto', THEIRS, THEIRS).changes_nothing
    assert 'changes nothing' in resolve('auto', THEIRS, THEIRS).summary()
    turned = resolve('auto', THEIRS[::-1], THEIRS)
    assert turned.sources == ((4,), (3,), (2,), (1,), (0,))
    assert not turned.changes_nothing
    assert not resolve('auto', THEIRS[:3], THEIRS).changes_nothing


def test_no_class_in_common_is_refused_with_what_there_is() -> None:
    error = refused(TeacherClassesError, 'auto', ours=('rbc', 'wbc'))
    assert 'no class in common, by name' in error.message
    assert 'rbc, wbc' in error.expected and 'person' in error.actual
    assert 'check_classes=False' in error.fix
    error = refused(TeacherClassesError, 'auto', ours=('cars',))
    assert "class_map={'cars': 'car'}" in error.fix
    assert resolve({'cars': 'car'}, ours=('cars',)).sources == ((1,),)
    refused(TeacherClassesError, {})
    refused(TeacherClassesError, [None, None, None])


def test_unknown_names_show_the_nearest() -> None:
    error = refused(ConfigError, {'dogs': 'dog'})
    assert 'the student has no class' in error.message
    assert error.fix == "{'dog': 'dog'}" and error.available[0] == 'dog'
    assert resolve({'dog': 'dog'}).sources[0] == (3,)
    error = refused(ConfigError, {'cars': 'carr'})
    assert 'knows no class' in error.message and error.available[0] == 'car'


def test_a_map_the_wrong_way_round_is_turned() -> None:
    error = refused(ConfigError, {'car': 'cars', 'cat': 'dog'})
    assert error.fix.startswith('the other way round')
    turned = eval(error.fix.partition('=')[2])
    assert resolve(turned).sources == ((4,), (), (1,))


@pytest.mark.parametrize('index', [5, -1])
def test_an_index_out_of_range(index: int) -> None:
    error = refused(ConfigError, {'dog': index})
    assert 'an index from 0 to 4' in error.expected and error.actual == index


def test_one_class_of_the_teacher_is_not_two_of_the_student() -> None:
    error = refused(ConfigError, {'dog': 'dog', 'cars': ['car', 'dog']})
    assert "stands for two classes, 'dog' and 'cars'" in error.message
    refused(ConfigError, {'dog': ['dog', 'dog']})


@pytest.mark.parametrize('given', [{'dog': 1.5}, {'dog': True}, [0.5, None, None]])
def test_values_that_are_no_classes(given: Any) -> None:
    assert 'by its name or index' in refused(ConfigError, given).message


def test_other_mistakes() -> None:
    assert '3 entries' in refused(ConfigError, [1]).expected
    assert "'auto'" in refused(ConfigError, {'*': 'dog'}).fix
    error = refused(ConfigError, 'auto', ours=3)
    assert error.fix.startswith('model.classes=')
    error = refused(ConfigError, 'auto', theirs=5)
    assert error.fix.startswith('model.teachers.t.classes=')
