"""Levels of student and teacher meet by stride, and the plan says which."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tiny
from mkd_det.errors import ShapeMismatchError
from mkd_det.plan.matching import LevelMatch, match_levels, pick
from plans import BIG, SMALL, build, guide, refused, term

REFS = ('fpn', 't.fpn')


def matched(student: list, teacher: list, **how: Any) -> LevelMatch:
    return match_levels(student, teacher, 'here', REFS, **how)


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [
        ([8, 16, 32], [8, 16, 32]),
        ([None], [None]),
        ([None, None], [8, 16]),
        ([8, 8, 16, 16], [8, 8, 16, 16]),
    ],
)
def test_equal_strides_and_levels_without_any_stay_by_index(
    student: list, teacher: list
) -> None:
    assert matched(student, teacher) == LevelMatch()


@pytest.mark.parametrize(
    ('student', 'teacher', 'ours', 'theirs'),
    [
        ([4, 8, 16], [8, 16, 32], (1, 2), (0, 1)),  # ResNet's and MobileNet's stages
        ([8, 16, 32, 64, 128], [4, 8, 16, 32, 64], (0, 1, 2, 3), (1, 2, 3, 4)),
        ([8, 16], [32, 16, 8], (0, 1), (2, 1)),
        ([8, 16, 64], [8, 16, 64, 64], (0, 1, 2), (0, 1, 2)),  # the finer one
    ],
)
def test_levels_of_equal_stride_meet(
    student: list, teacher: list, ours: tuple, theirs: tuple
) -> None:
    match = matched(student, teacher)
    assert (match.student, match.teacher) == (ours, theirs)
    assert match.of('student') == ours and match.of('pruned') == theirs
    assert pick(student, ours) == pick(teacher, theirs)


def test_what_is_matched_and_what_is_left_out_is_told() -> None:
    words = matched([4, 8, 16], [8, 16, 32]).words
    assert words == 'strides 8, 16; left out of fpn: 4; left out of t.fpn: 32'


def test_one_level_of_each_is_compared_whatever_its_stride_and_that_is_told() -> None:
    """The config names both places."""
    match = matched([8], [16])
    assert match.student is match.teacher is None
    assert match.words == 'stride 8 meets 16, the only levels'


def test_no_common_stride_is_an_error_whose_advice_works() -> None:
    with pytest.raises(ShapeMismatchError, match='no level of fpn') as caught:
        matched([4, 8], [16, 32])
    assert "match='index'" in caught.value.fix
    assert matched([4, 8], [16, 32], how='index') == LevelMatch()


def four_to_seven() -> dict[str, Any]:
    """The teacher reads the stages of strides 8 to 32, the student all four."""
    own = dict(taps=dict(stages=[f'backbone.layer{n}' for n in (2, 3, 4)]))
    return dict(t=dict(cfg=BIG, checkpoint=None, speed='off', **own))


def test_a_term_compares_levels_of_equal_stride_and_its_plan_says_so() -> None:
    terms = term('AttentionKD', 'stages', 't.stages')
    model = build(terms=terms, teachers=four_to_seven(), probe_size=128)
    found = model.plan.terms['loss_x']
    assert (found.match.student, found.match.teacher) == ((1, 2, 3), (0, 1, 2))
    line = model.plan.describe()['term loss_x']
    assert 'strides 8, 16, 32; left out of stages: 4' in line
    assert 'left out of stages: 4' in model.plan.table(200)
    by_hand = build(
        terms=terms,
        taps=dict(stages=[f'backbone.layer{n}' for n in (2, 3, 4)]),
        probe_size=128,
    )
    by_hand.student.load_state_dict(model.student.state_dict())
    by_hand.teachers['t'].model.load_state_dict(model.teachers['t'].model.state_dict())
    data = model.data_preprocessor(tiny.batch(), True)
    losses = [m(**data, mode='loss')['loss_x'] for m in (model, by_hand)]
    assert torch.equal(*losses) and losses[0] > 0


def test_adapters_are_built_for_the_levels_that_meet() -> None:
    model = build(
        adapters=guide(),
        terms=term('FeatureKD', 'guide.student', 'guide.teacher'),
        teachers=four_to_seven(),
        probe_size=128,
    )
    node = model.plan.adapters['guide']
    assert [spec.stride for spec in node.adapter.student_specs] == [8, 16, 32]
    assert 'left out of stages: 4' in model.plan.describe()['adapter guide']
    data = model.data_preprocessor(tiny.batch(), True)
    assert model(**data, mode='loss')['loss_x'].isfinite()


def test_heads_of_four_and_of_five_levels_meet_on_four() -> None:
    four = tiny.gfl(8, 16)
    four['neck'].update(num_outs=4)
    four['bbox_head']['anchor_generator'].update(strides=[8, 16, 32, 64])
    terms = term('SoftOutputKD', 'head', 't.head')
    model = build(SMALL, four, terms=terms)
    found = model.plan.terms['loss_x']
    assert found.readers['student'].kept == (0, 1, 2, 3)
    assert '8, 16, 32, 64; left out of head: 128' in str(found)
    data = model.data_preprocessor(tiny.batch(), True)
    assert model(**data, mode='loss')['loss_x_cls'].isfinite()


def test_by_index_is_a_setting() -> None:
    own = dict(taps=dict(one=['backbone.layer3', 'backbone.layer4']))
    pair = dict(
        taps=dict(one=['backbone.layer1', 'backbone.layer2']),
        teachers=dict(t=dict(cfg=BIG, checkpoint=None, **own)),
        probe_size=128,
    )
    refused(ShapeMismatchError, terms=term('AttentionKD', 'one', 't.one'), **pair)
    model = build(terms=term('AttentionKD', 'one', 't.one', match='index'), **pair)
    assert model.plan.terms['loss_x'].match == LevelMatch()
