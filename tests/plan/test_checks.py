"""The plan: shapes and heads are checked before the first step."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from mmdet.registry import MODELS
from torch import nn

import tiny
from mkd_det.errors import (
    ConfigError,
    HeadKindError,
    PlanError,
    ShapeMismatchError,
    TapNoGradError,
    TeacherClassesError,
)
from mkd_det.losses import PairLoss
from mkd_det.registry import LOSSES
from plans import BIG, SMALL, build, guide, refused, term

# -- shapes ----------------------------------------------------------------------


def test_unequal_channels_print_the_adapter_line_that_works() -> None:
    error = refused(ShapeMismatchError, terms=term('FeatureKD', 'fpn', 't.fpn'))
    assert '8 in the student and 16 in the teacher' in str(error)
    line = error.fix.splitlines()[0]
    adapters = eval(line.partition('=')[2])  # what the message says, written down
    model = build(
        adapters=adapters,
        terms=term('FeatureKD', 'guide.student', 'guide.teacher'),
    )
    assert list(model.plan.terms) == ['loss_x']
    assert line in str(error)


def test_an_unequal_number_of_levels_is_told() -> None:
    by_index = term('AttentionKD', 'stages', 't.fpn', match='index')
    error = refused(ShapeMismatchError, terms=by_index)
    assert str(error.actual).startswith('4 levels')
    assert str(error.expected).startswith('5 levels')
    # As the message says: a tap of the teacher's own.
    own = dict(t=dict(cfg=BIG, checkpoint=None, taps=dict(fpn='backbone')))
    build(terms=term('AttentionKD', 'stages', 't.fpn'), teachers=own)


def test_maps_of_unequal_size_are_told_where_a_loss_demands_equal_ones() -> None:
    from mkd_det.losses.features.attention import AttentionKD
    from mkd_det.registry import LOSSES

    class Exact(AttentionKD):
        demands = frozenset({'same_spatial'})

    LOSSES.register_module(module=Exact, force=True)
    try:
        taps = dict(one='backbone.layer2')
        teachers = dict(
            t=dict(cfg=BIG, checkpoint=None, taps=dict(one='backbone.layer3'))
        )
        terms = term('Exact', 'one', 't.one')
        error = refused(ShapeMismatchError, taps=taps, teachers=teachers, terms=terms)
        assert '(4, 4) (stride 16)' in str(error) and '(8, 8) (stride 8)' in str(error)
    finally:
        LOSSES.module_dict.pop('Exact')


@pytest.mark.parametrize(
    'terms, actual',
    [
        (term('RelationKD', 'one', 't.one'), 'student 1, teacher 1'),
        (term('AttentionKD', 'vector', 't.vector'), '(1, 8) and (1, 8)'),
    ],
)
def test_what_only_the_loss_can_check_is_checked_before_the_first_step(
    terms: dict, actual: str
) -> None:
    student, teacher = _with_vector(4, 8), _with_vector(4, 8)
    taps = dict(one='neck.fpn_convs.0', vector='bbox_head.flat')
    error = refused(
        ShapeMismatchError, student=student, teacher=teacher, taps=taps, terms=terms
    )
    assert error.actual == actual


class HeadWithVector(nn.Module):
    """Stands where a head stands, and yields a vector beside."""

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.pool, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()

    def forward(self, features: tuple) -> Any:
        return self.flat(self.pool(features[0]))


def _with_vector(base: int, neck: int) -> dict[str, Any]:
    MODELS.register_module(module=HeadWithVector, force=True)
    return {**tiny.gfl(base, neck), 'bbox_head': dict(type='HeadWithVector')}


# -- heads -----------------------------------------------------------------------

SOFT = term('SoftOutputKD', 'head', 't.head')


def test_a_softmax_loss_does_not_fit_a_sigmoid_head() -> None:
    terms = term('SoftOutputKD', 'head', 't.head', classes='softmax')
    error = refused(HeadKindError, terms=terms)
    assert 'a softmax loss on a sigmoid head' in str(error)


def test_a_sigmoid_and_a_softmax_head_do_not_meet() -> None:
    student = tiny.retinanet(4, 8)
    student['bbox_head']['loss_cls'] = dict(type='CrossEntropyLoss', use_sigmoid=False)
    error = refused(
        HeadKindError, student=student, teacher=tiny.retinanet(4, 8), terms=SOFT
    )
    assert 'softmax in the student' in str(error)


def test_another_number_of_classes_is_told() -> None:
    teacher = tiny.gfl(8, 16, num_classes=5)
    error = refused(TeacherClassesError, teacher=teacher, terms=SOFT)
    assert '5 class outputs' in str(error) and '3 in the student' in str(error)
    build(teacher=teacher)  # features alone do not mind


def test_other_anchors_are_told() -> None:
    error = refused(HeadKindError, teacher=tiny.retinanet(8, 16), terms=SOFT)
    assert 'predict at different places' in str(error)


def retina(**anchors: Any) -> dict[str, Any]:
    """A RetinaNet, its anchors changed."""
    model = copy.deepcopy(tiny.retinanet(4, 8))
    model['bbox_head']['anchor_generator'].update(anchors)
    return model


@pytest.mark.parametrize(
    'anchors',
    [dict(ratios=[2.0, 1.0, 0.5]), dict(octave_base_scale=8)],
    ids=['order', 'scale'],
)
def test_heads_with_other_anchors_are_not_compared(anchors: dict) -> None:
    """As many places, but a tall anchor would teach a wide one."""
    error = refused(
        HeadKindError,
        student=retina(),
        teacher=retina(**anchors),
        terms=term('SoftOutputKD', 'head', 't.head'),
    )
    assert 'other anchors' in str(error)


@pytest.mark.parametrize(
    'student, teacher',
    [
        (retina(), retina()),
        # A place has one prior: boxes are compared decoded, whatever it is.
        (tiny.gfl(4, 8), tiny.fcos(8, 16)),
        (tiny.atss(4, 8), tiny.gfl(8, 16)),
    ],
    ids=['equal', 'points', 'one anchor'],
)
def test_heads_of_equal_places_are_compared(student: dict, teacher: dict) -> None:
    terms = term('SoftOutputKD', 'head', 't.head')
    assert build(student, teacher, terms=terms).plan.terms


def test_a_head_and_a_feature_map_do_not_meet() -> None:
    refused(PlanError, terms=term('SoftOutputKD', 'fpn', 't.head'))
    error = refused(PlanError, terms=term('FeatureKD', 'head', 't.head'))
    assert 'a whole head' in str(error)
    refused(
        PlanError,
        adapters=guide('head', 't.head'),
        terms=term('FeatureKD', 'guide.student', 'guide.teacher'),
    )


def test_frozen_layers_of_the_student_are_told() -> None:
    student = copy.deepcopy(SMALL)
    student['backbone']['frozen_stages'] = 1
    taps = dict(one='backbone.layer1')
    refused(
        TapNoGradError,
        student=student,
        taps=taps,
        terms=term('AttentionKD', 'one', 't.one'),
    )


def test_a_loss_on_outputs_need_not_ask_what_kind_the_head_is() -> None:
    class ScoreKD(PairLoss):
        """Without `kind` in its constructor."""

        reads = 'outputs'

        def over_levels(self, student: Any, teacher: Any, mask: Any) -> Any:
            return (student[0].scores - teacher[0].scores).square().mean()

    LOSSES.register_module(module=ScoreKD, force=True)
    try:
        model = build(terms=term('ScoreKD', 'head', 't.head'))
        assert 'loss_x' in model.plan.terms
    finally:
        LOSSES.module_dict.pop('ScoreKD')


@pytest.mark.parametrize(
    ('result', 'words'),
    [
        (lambda s, t: (s - t).square().mean((1, 2, 3)), 'one number'),
        (lambda s, t: 3.0, 'one number'),
        (lambda s, t: (s - t).mean() / 0, 'not finite'),
    ],
)
def test_what_a_users_loss_yields_is_looked_at(result: Any, words: str) -> None:
    class OwnKD(PairLoss):
        """Of a user."""

        def over_levels(self, student: Any, teacher: Any, mask: Any) -> Any:
            return result(student[0].repeat(2, 1, 1, 1), student[0].repeat(2, 1, 1, 1))

    LOSSES.register_module(module=OwnKD, force=True)
    try:
        error = refused(ConfigError, terms=term('OwnKD', 'fpn', 't.fpn'))
    finally:
        LOSSES.module_dict.pop('OwnKD')
    assert words in error.message


def test_a_demand_that_nobody_checks_is_refused() -> None:
    class TypoKD(PairLoss):
        """Of a user."""

        demands = frozenset({'same_chanels'})

        def pair(self, student: Any, teacher: Any, mask: Any = None) -> Any:
            return student.mean()

    LOSSES.register_module(module=TypoKD, force=True)
    try:
        error = refused(ConfigError, terms=term('TypoKD', 'fpn', 't.fpn'))
    finally:
        LOSSES.module_dict.pop('TypoKD')
    assert 'same_chanels' in str(error)
