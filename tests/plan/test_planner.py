"""The plan: names, what is on, and a probe without a trace."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

import tiny
from mkd_det.errors import (
    ConfigError,
    PlanError,
    TapNotFoundError,
    TapSilentError,
)
from plans import ATTENTION, BIG, SMALL, build, guide, refused, term

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


# -- values of the wrong kind ------------------------------------------------------


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('weight', '1.0'),
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
    assert 'loss_x' in error.message
    name = next(iter(value)) if isinstance(value, dict) else key
    assert name in str(error)
    assert key != 'schedule' or 'recipes that fit' not in error.fix


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
