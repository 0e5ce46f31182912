"""The plan: everything that can be wrong with a config is found before training."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn

import tiny
from mkd_det.distiller.model import Distiller
from mkd_det.errors import (
    ConfigError,
    HeadKindError,
    MkdError,
    PlanError,
    ShapeMismatchError,
    TapNoGradError,
    TapNotFoundError,
    TapSilentError,
    TeacherClassesError,
)
from mkd_det.losses import PairLoss
from mkd_det.registry import LOSSES

SMALL, BIG = tiny.gfl(4, 8), tiny.gfl(8, 16)
ATTENTION = dict(type='AttentionKD', student='fpn', teacher='t.fpn')


def build(student: dict = SMALL, teacher: dict = BIG, **changes: Any) -> Distiller:
    """A distiller whose only term is attention on the neck, unless changed."""
    parts = dict(adapters={}, branches={}, terms=dict(loss_attention=ATTENTION))
    cfg = tiny.distiller(student, teacher, **{**parts, **changes})
    return MODELS.build(Config(dict(model=cfg)).model)


def term(type: str, student: str, teacher: str, **more: Any) -> dict[str, Any]:
    return dict(loss_x=dict(type=type, student=student, teacher=teacher, **more))


def refused(error: type[MkdError], **changes: Any) -> MkdError:
    with pytest.raises(error) as caught:
        build(**changes)
    assert type(caught.value) is error
    return caught.value


def guide(student: str = 'stages', teacher: str = 't.stages', **more: Any) -> dict:
    kwargs = dict(type='GuidanceLayer', student=student, teacher=teacher, **more)
    return dict(guide=kwargs)


# -- names -----------------------------------------------------------------------


@pytest.mark.parametrize(
    'changes, nearest',
    [
        (dict(terms=term('AttentionKD', 'fpm', 't.fpn')), 'fpn'),
        (dict(terms=term('AttentionKD', 'fpn', 't.fpm')), 't.fpn'),
        (dict(terms=term('AttentionKD', 'fpn', 'u.fpn')), 't.fpn'),
        (dict(terms=term('AttentionKD', 't.fpn', 't.fpn')), 'fpn'),
        (dict(terms=term('AttentionKD', 'fpn', 'fpn')), 't.fpn'),
        (
            dict(
                terms=term('FeatureKD', 'guid.student', 'guide.teacher'),
                adapters=guide(),
            ),
            'guide.student',
        ),
        (
            dict(
                terms=term('FeatureKD', 'guide.teacher', 'guide.teacher'),
                adapters=guide(),
            ),
            'guide.student',
        ),
        (
            dict(
                terms=term('AttentionKD', 'explore.inherited', 't.fpn'),
                branches=dict(
                    explore=dict(type='ExplorationBranch', on='neck.fpn_convs')
                ),
            ),
            'explore.inherit',
        ),
    ],
)
def test_an_unknown_reference_lists_the_nearest(changes: dict, nearest: str) -> None:
    error = refused(ConfigError, **changes)
    assert error.available[0] == nearest
    assert 'loss_x' in str(error)


@pytest.mark.parametrize(
    'changes, nearest',
    [
        (dict(terms=term('AtentionKD', 'fpn', 't.fpn')), 'AttentionKD'),
        (dict(adapters=dict(g=dict(type='GuidenceLayer'))), 'GuidanceLayer'),
        (
            dict(branches=dict(e=dict(type='ExplorationBranhc', on='neck'))),
            'ExplorationBranch',
        ),
        (dict(terms=term('FeatureKD', 'fpn', 't.fpn', forn='l2')), 'form'),
        (dict(terms=term('AttentionKD', 'fpn', 't.fpn', wieght=1)), 'weight'),
        (
            dict(terms=term('AttentionKD', 'fpn', 't.fpn', schedule=dict(warmup=3))),
            'warmup_iters',
        ),
        (
            dict(
                adapters=guide('fpn', 't.fpn', widht=8),
                terms=term('FeatureKD', 'guide.student', 'guide.teacher'),
            ),
            'width',
        ),
        (dict(sampling=dict(keep=0.5)), 'keep_prob'),
        (dict(termz={}), 'terms'),
    ],
)
def test_an_unknown_type_or_argument_lists_the_nearest(
    changes: dict, nearest: str
) -> None:
    error = refused(ConfigError, **changes)
    assert error.available[0] == nearest


def test_an_unknown_type_is_found_even_where_the_weight_is_zero() -> None:
    refused(ConfigError, terms=term('AtentionKD', 'fpn', 't.fpn', weight=0))


def test_a_tap_that_names_no_module_lists_the_nearest() -> None:
    error = refused(TapNotFoundError, taps=dict(fpn='nek'))
    assert error.available[0] == 'neck'
    refused(TapSilentError, taps=dict(fpn='neck.fpn_convs'))
    refused(ConfigError, taps=dict(fpn='neck:out'))


@pytest.mark.parametrize('name', ['attention', 'stat_x', 'x_loss_', 'loss_a.b'])
def test_the_name_of_a_term_begins_with_loss(name: str) -> None:
    error = refused(ConfigError, terms={name: ATTENTION})
    if name == 'attention':
        assert error.fix == 'loss_attention=dict(...)'


@pytest.mark.parametrize('name', ['t', 'student', 'a.b', 'no name'])
def test_names_are_taken_once_and_are_names(name: str) -> None:
    assert 'cannot be a name' in str(
        refused(ConfigError, adapters={name: guide()['guide']})
    )


def test_the_name_of_a_tap_has_no_dots() -> None:
    refused(ConfigError, taps={'t.fpn': 'neck'})
    teachers = dict(t=dict(cfg=BIG, checkpoint=None, taps={'f.g': 'neck'}))
    refused(ConfigError, teachers=teachers, taps=dict(fpn='neck'))


def test_an_adapter_and_a_branch_cannot_share_a_name() -> None:
    branches = dict(guide=dict(type='ExplorationBranch', on='neck.fpn_convs'))
    error = refused(ConfigError, adapters=guide(), branches=branches)
    assert "adapter 'guide'" in str(error)


def test_a_missing_side_is_told() -> None:
    error = refused(
        ConfigError, terms=dict(loss_x=dict(type='AttentionKD', student='fpn'))
    )
    assert '`teacher` is missing' in str(error)
    assert 't.fpn' in error.available


def test_an_adapter_reads_taps_only() -> None:
    adapters = {**guide(), 'more': guide('guide.student')['guide']}
    refused(
        PlanError,
        adapters=adapters,
        terms=term('FeatureKD', 'more.student', 'more.teacher'),
    )


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
    error = refused(ShapeMismatchError, terms=term('AttentionKD', 'stages', 't.fpn'))
    assert 'has 4 levels, t.fpn 5' in str(error)
    # As the message says: a tap of the teacher's own.
    own = dict(t=dict(cfg=BIG, checkpoint=None, taps=dict(fpn='backbone')))
    build(terms=term('AttentionKD', 'stages', 't.fpn'), teachers=own)


def test_maps_of_unequal_size_are_told_where_a_loss_demands_equal_ones() -> None:
    from mkd_det.losses.attention import AttentionKD
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
    'terms, says',
    [
        (term('RelationKD', 'one', 't.one'), 'two levels or more'),
        (term('AttentionKD', 'vector', 't.vector'), 'no positions'),
    ],
)
def test_what_only_the_loss_can_tell_is_told_before_the_first_step(
    terms: dict, says: str
) -> None:
    student, teacher = _with_vector(4, 8), _with_vector(4, 8)
    taps = dict(one='neck.fpn_convs.0', vector='bbox_head.flat')
    error = refused(
        ShapeMismatchError, student=student, teacher=teacher, taps=taps, terms=terms
    )
    assert says in str(error)


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


# -- what is on and what is off ---------------------------------------------------


def test_weight_zero_is_off_with_all_that_it_alone_reads() -> None:
    cfg = tiny.distiller(SMALL, BIG)
    cfg['terms']['loss_relation']['weight'] = 0
    model = tiny.build(cfg)
    assert list(model.plan.terms) == ['loss_soft', 'loss_attention']
    parts = {name for name in model.plan.off if not name.startswith('tap ')}
    assert parts == {'term loss_relation', 'adapter guide'}
    assert not len(model.adapters)
    assert 'stages' in model.plan.taps['student']  # which attention reads
    for term_cfg in cfg['terms'].values():
        term_cfg['weight'] = 0.0
    model = tiny.build(cfg)
    assert 'branch explore' in model.plan.off
    assert not model.plan.terms and not model.branches and not model.plan.taps
    assert list(model.student.state_dict()) == list(tiny.build(SMALL).state_dict())


def test_teachers_without_terms_are_no_distillation() -> None:
    """A forgotten `**_base_.pop('recipe')` would train the plain student."""
    cfg = tiny.distiller(SMALL, BIG)
    for name in ('terms', 'adapters', 'branches', 'taps'):
        cfg.pop(name, None)
    with pytest.raises(ConfigError, match='nothing would be distilled') as caught:
        tiny.build(cfg)
    assert "_base_.pop('recipe')" in caught.value.fix


def test_what_is_off_has_no_parameters() -> None:
    cfg = tiny.distiller(SMALL, BIG)
    for term_cfg in cfg['terms'].values():
        term_cfg['weight'] = 0
    plain = tiny.build(SMALL)
    ours = [
        name.removeprefix('student.') for name, _ in tiny.build(cfg).named_parameters()
    ]
    assert ours == [name for name, _ in plain.named_parameters()]


def test_a_teachers_own_taps_come_over_the_common_ones() -> None:
    own = dict(t=dict(cfg=BIG, checkpoint=None, taps=dict(fpn='backbone')))
    common = dict(fpn=[f'backbone.layer{i}' for i in (1, 2, 3, 4)])
    model = build(teachers=own, taps=common)
    assert len(model.plan.taps['student']['fpn'].paths) == 4
    assert str(model.plan.taps['t']['fpn']) == 'backbone'
    assert len(model.plan.specs['t', 'fpn']) == 4


def test_shapes_are_those_of_the_models() -> None:
    specs = build(terms=term('AttentionKD', 'stages', 't.stages')).plan.specs
    assert [s.channels for s in specs['student', 'stages']] == [4, 8, 16, 32]
    assert [s.channels for s in specs['t', 'stages']] == [8, 16, 32, 64]
    assert [s.stride for s in specs['t', 'stages']] == [4, 8, 16, 32]
    assert [s.size for s in specs['t', 'stages']] == [(16, 16), (8, 8), (4, 4), (2, 2)]


def test_the_size_of_the_probe_may_be_told() -> None:
    sizes = [
        [spec.size for spec in build(probe_size=size).plan.specs['t', 'fpn']][0]
        for size in (64, (64, 128))
    ]
    assert sizes == [(8, 8), (8, 16)]


# -- no trace of the probe -------------------------------------------------------


def test_probing_leaves_no_trace() -> None:
    """Not in buffers, train flags, gradients, hooks or any random state."""
    cfg = tiny.distiller(SMALL, BIG)
    plain = tiny.build(SMALL)
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    alone = MODELS.build(Config(dict(m=SMALL)).m)
    states = (
        torch.get_rng_state(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
    )
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    model = MODELS.build(Config(dict(m=cfg)).m)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    for (name, one), (_, other) in zip(
        model.state_dict().items(), alone.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name
    for module in (model.student, model.teachers['t'].model):
        fresh = plain.backbone.bn1.running_mean.new_zeros(())
        assert (module.backbone.bn1.running_mean == fresh).all()
        assert module.backbone.bn1.num_batches_tracked == 0
        assert all(p.grad is None for p in module.parameters())
        assert not any(m._forward_hooks for m in module.modules())
    assert all(m.training for m in model.modules())
    assert not any(m.training for m in model.teachers['t'].model.modules())


# -- what people read ------------------------------------------------------------


def test_the_table_prints_every_part() -> None:
    cfg = tiny.distiller(SMALL, BIG)
    cfg['terms']['loss_attention']['weight'] = 0
    model = tiny.build(cfg)
    table = model.plan.table()
    for part in (
        'tap stages',
        'tap t.head',
        'adapter guide',
        'branch explore',
        'term loss_soft',
        'SoftOutputKD: head <- t.head',
        'term loss_attention',
        'off',
    ):
        assert part in table, part
    count = sum(p.numel() for p in model.adapters['guide'].parameters())
    assert f'{count:,}' in table
    assert '4/4 8/8 16/16 32/32' in table
    assert max(map(len, table.splitlines())) <= 110


def test_equal_configs_give_equal_plans_and_others_do_not() -> None:
    def plan(**changes: Any) -> dict[str, str]:
        return tiny.build(tiny.distiller(SMALL, BIG, **changes)).plan.describe()

    first = plan()
    assert plan() == first
    assert all(isinstance(v, str) for v in first.values())
    # Weights and schedules may change when a run is resumed.
    terms = copy.deepcopy(tiny.distiller(SMALL, BIG)['terms'])
    terms['loss_soft'] |= dict(weight=0.3, schedule=dict(stop_epoch=2))
    assert plan(terms=terms) == first
    # Taps, shapes, types and terms may not.
    del terms['loss_attention']
    assert plan(terms=terms) != first
    assert plan(branches={}) != first
    adapters = dict(guide=dict(**guide()['guide'], width=24))
    taps = dict(stages=[f'backbone.layer{i}' for i in (1, 2, 3, 4)], head='bbox_head')
    assert plan(taps=taps) != first
    assert tiny.build(tiny.distiller(SMALL, tiny.gfl(8, 24))).plan.describe() == first
    assert tiny.build(tiny.distiller(SMALL, tiny.gfl(12, 16))).plan.describe() != first
    assert plan(adapters=adapters) != first


def test_taps_that_nothing_reads_are_shown_as_off() -> None:
    teachers = dict(
        t=dict(cfg=BIG, checkpoint=None, taps=dict(stagez='backbone.layer2'))
    )
    model = build(
        taps=dict(fpn='neck', stages='backbone'),
        teachers=teachers,
        terms=dict(
            loss_attention=dict(type='AttentionKD', student='fpn', teacher='t.fpn')
        ),
    )
    assert {'tap stages', 'tap t.stagez'} <= set(model.plan.off)


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


# -- values of the wrong kind ------------------------------------------------------


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('weight', '1.0'),
        ('weight', None),
        ('weight', float('inf')),
        ('weight', True),
        ('tau', '2'),
        ('tau', float('inf')),
        ('box_tau', float('nan')),
        ('beta', float('inf')),
        ('focus', -1),
        ('balance', '1'),
        ('schedule', [1]),
        ('schedule', dict(stop_epoch=1.5)),
        ('schedule', dict(warmup_iters='3')),
        ('schedule', dict(warmup_iters=None)),
        ('schedule', dict(decay_iters=10)),
        ('schedule', dict(decay='linear', decay_iters=10, warmup_iters=10)),
    ],
)
def test_a_value_of_the_wrong_kind_names_the_term_and_the_key(
    key: str, value: Any
) -> None:
    terms = term('SoftOutputKD', 'head', 't.head', **{key: value})
    error = refused(ConfigError, terms=terms)
    assert "term 'loss_x'" in error.message
    name = next(iter(value)) if isinstance(value, dict) else key
    assert name in str(error)


@pytest.mark.parametrize('both', [dict(class_weight=0.0, box_weight=0.0)])
def test_a_term_without_any_part_is_refused(both: dict[str, float]) -> None:
    refused(ConfigError, terms=term('SoftOutputKD', 'head', 't.head', **both))


@pytest.mark.parametrize(
    'changes',
    [
        dict(taps=['neck']),
        dict(taps={3: 'neck'}),
        dict(terms=[1]),
        dict(adapters=[1]),
        dict(branches='x'),
        dict(teachers=[1]),
        dict(teachers=dict(t=None)),
        dict(teachers=dict(t=[1])),
        dict(teachers=dict(t=dict(cfg=BIG, checkpoint=3))),
        dict(teachers=dict(t=dict(cfg=BIG, checkpoint=None, prefix=3))),
        dict(teachers=dict(t=dict(cfg=BIG, checkpoint=None, trust_checkpoint='False'))),
        dict(teachers=dict(t=dict(cfg=BIG, checkpoint=None, taps=['neck']))),
        dict(sampling=[1]),
        dict(sampling=dict(drop_exact=0.5)),
        dict(sampling=dict(keep_prob='0.5')),
        dict(probe_size=0),
        dict(probe_size=None),
        dict(probe_size=[64, 64, 64]),
        dict(probe_size=100000),
        dict(
            adapters=dict(
                keys=dict(type='GuidanceLayer', student='fpn', teacher='t.fpn')
            )
        ),
    ],
    ids=str,
)
def test_a_part_of_the_wrong_kind_is_told(changes: dict[str, Any]) -> None:
    cfg = tiny.distiller(SMALL, BIG, adapters={}, branches={}, terms={})
    with pytest.raises(ConfigError):
        MODELS.build({**cfg, **changes})


def test_a_model_that_cannot_be_built_is_told() -> None:
    teachers = dict(t=dict(cfg={**BIG, 'neckk': 1}, checkpoint=None))
    error = refused(ConfigError, teachers=teachers)
    assert 'neckk' in str(error)


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
